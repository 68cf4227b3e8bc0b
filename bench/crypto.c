/*
 * crypto.c - fixed work for libcrypto, for `make bench`: SHA-256 and AES-256-GCM of 64 MiB,
 * RSA-2048 signatures.
 *
 * `openssl speed` works for a fixed time, and `openssl enc` knows no GCM; hence this. The library
 * is opened when the program runs, and its functions are declared here: no headers are needed on
 * the host, and the guest's library is the one that is measured. Prints a digest of the result, so
 * that three machines can be compared.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOTAL = 64 << 20, CHUNK = 16 << 10, SIGNATURES = 200 };

static void *library;

static void die(const char *what)
{
    fprintf(stderr, "crypto: %s\n", what);
    exit(1);
}

static void *symbol(const char *name)
{
    void *p = dlsym(library, name);

    if (!p)
        die(name);
    return p;
}

/* The prototypes of OpenSSL 3, with its structs as void. */
typedef void *(*make_fn)(void);
typedef int (*digest_init_fn)(void *context, const void *type, void *engine);
typedef int (*digest_update_fn)(void *context, const void *data, size_t size);
typedef int (*digest_final_fn)(void *context, unsigned char *out, unsigned *size);
typedef int (*cipher_init_fn)(void *context, const void *type, void *engine,
                              const unsigned char *key, const unsigned char *iv);
typedef int (*cipher_update_fn)(void *context, unsigned char *out, int *out_size,
                                const unsigned char *in, int size);
typedef int (*cipher_ctrl_fn)(void *context, int type, int argument, void *pointer);
typedef void *(*read_key_fn)(FILE *f, void **key, void *callback, void *argument);
typedef int (*sign_init_fn)(void *context, void **key_context, const void *type, void *engine,
                            void *key);
typedef int (*sign_fn)(void *context, unsigned char *out, size_t *out_size,
                       const unsigned char *data, size_t size);

static void print(const unsigned char *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        printf("%02x", bytes[i]);
    putchar('\n');
}

static void sha256(unsigned char *chunk)
{
    digest_update_fn update = (digest_update_fn)symbol("EVP_DigestUpdate");
    void *context = ((make_fn)symbol("EVP_MD_CTX_new"))();
    unsigned char out[64];
    unsigned size;

    if (!context || !((digest_init_fn)symbol("EVP_DigestInit_ex"))(
                        context, ((make_fn)symbol("EVP_sha256"))(), NULL))
        die("EVP_DigestInit_ex");
    for (int done = 0; done < TOTAL; done += CHUNK)
        if (!update(context, chunk, CHUNK))
            die("EVP_DigestUpdate");
    if (!((digest_final_fn)symbol("EVP_DigestFinal_ex"))(context, out, &size))
        die("EVP_DigestFinal_ex");
    print(out, size);
}

static void aes_gcm(unsigned char *chunk)
{
    enum { GET_TAG = 0x10, TAG = 16 };
    static unsigned char out[CHUNK + 64];
    const unsigned char key[32] = "a key that is no secret at all.", iv[12] = "twelve byte";
    cipher_update_fn update = (cipher_update_fn)symbol("EVP_EncryptUpdate");
    void *context = ((make_fn)symbol("EVP_CIPHER_CTX_new"))();
    unsigned char tag[TAG];
    int size;

    if (!context || !((cipher_init_fn)symbol("EVP_EncryptInit_ex"))(
                        context, ((make_fn)symbol("EVP_aes_256_gcm"))(), NULL, key, iv))
        die("EVP_EncryptInit_ex");
    for (int done = 0; done < TOTAL; done += CHUNK)
        if (!update(context, out, &size, chunk, CHUNK) || size != CHUNK)
            die("EVP_EncryptUpdate");
    if (!((digest_final_fn)symbol("EVP_EncryptFinal_ex"))(context, out, (unsigned *)&size) ||
        !((cipher_ctrl_fn)symbol("EVP_CIPHER_CTX_ctrl"))(context, GET_TAG, TAG, tag))
        die("EVP_EncryptFinal_ex");
    print(tag, TAG);
}

static void rsa(const char *path)
{
    sign_fn sign = (sign_fn)symbol("EVP_DigestSign");
    sign_init_fn init = (sign_init_fn)symbol("EVP_DigestSignInit");
    const void *type = ((make_fn)symbol("EVP_sha256"))();
    unsigned char out[512];
    size_t size = 0;
    FILE *f = fopen(path, "r");

    if (!f)
        die(path);
    void *key = ((read_key_fn)symbol("PEM_read_PrivateKey"))(f, NULL, NULL, NULL);
    fclose(f);
    if (!key)
        die("PEM_read_PrivateKey");
    for (int i = 0; i < SIGNATURES; i++) {
        void *context = ((make_fn)symbol("EVP_MD_CTX_new"))();
        size = sizeof(out);
        if (!context || !init(context, NULL, type, NULL, key) ||
            !sign(context, out, &size, (const unsigned char *)&i, sizeof(i)))
            die("EVP_DigestSign");
        ((void (*)(void *))symbol("EVP_MD_CTX_free"))(context);
    }
    print(out, size);
}

int main(int argc, char **argv)
{
    static unsigned char chunk[CHUNK];

    library = dlopen("libcrypto.so.3", RTLD_NOW);
    if (!library)
        die(dlerror());
    for (int i = 0; i < CHUNK; i++)
        chunk[i] = (unsigned char)(i * 7 + (i >> 8));
    if (argc == 2 && !strcmp(argv[1], "sha256"))
        sha256(chunk);
    else if (argc == 2 && !strcmp(argv[1], "aes-gcm"))
        aes_gcm(chunk);
    else if (argc == 3 && !strcmp(argv[1], "rsa"))
        rsa(argv[2]);
    else
        die("usage: crypto sha256 | aes-gcm | rsa KEY.pem");
    return 0;
}
