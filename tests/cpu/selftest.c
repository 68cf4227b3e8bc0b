/*
 * selftest.c - would the tester notice? Results are damaged on purpose, after one instruction of
 * the engine, and must be reported, shrunk to little more than that instruction, and with the state
 * that has nothing to do with it gone; damage to what is undefined must be ignored.
 */
#include "oracle.h"

#include <stdlib.h>

struct trial {
    const char *what;
    struct sabotage sabotage;
    bool noticed;
};

static const struct trial trials[] = {
    {"a wrong register", {ZYDIS_MNEMONIC_ADD, SABOTAGE_GPR, 0}, true},
    {"a wrong carry", {ZYDIS_MNEMONIC_SUB, SABOTAGE_FLAG, RFLAGS_CF}, true},
    {"a flag that MOV changes", {ZYDIS_MNEMONIC_MOV, SABOTAGE_FLAG, RFLAGS_AF}, true},
    {"a wrong byte in memory", {ZYDIS_MNEMONIC_XADD, SABOTAGE_MEMORY, 0}, true},
    {"a wrong exception", {ZYDIS_MNEMONIC_DIV, SABOTAGE_VECTOR, 0}, true},
    {"a wrong bit in a vector", {ZYDIS_MNEMONIC_PADDB, SABOTAGE_ZMM, 0}, true},
    {"the carry of MUL", {ZYDIS_MNEMONIC_MUL, SABOTAGE_FLAG, RFLAGS_CF}, true},
    {"the sign of MUL, undefined", {ZYDIS_MNEMONIC_MUL, SABOTAGE_FLAG, RFLAGS_SF}, false},
    {"the sign of AND", {ZYDIS_MNEMONIC_AND, SABOTAGE_FLAG, RFLAGS_SF}, true},
    {"AF of AND, undefined", {ZYDIS_MNEMONIC_AND, SABOTAGE_FLAG, RFLAGS_AF}, false},
    {"overflow of BSF, undefined", {ZYDIS_MNEMONIC_BSF, SABOTAGE_FLAG, RFLAGS_OF}, false},
    {"zero of BSF", {ZYDIS_MNEMONIC_BSF, SABOTAGE_FLAG, RFLAGS_ZF}, true},
};

static const unsigned tries = 200; /* of each trial */

/* Cases with a shape, whose instructions move while they are made smaller. */
static const struct trial shaped_trials[] = {
    {"a wrong register in a loop", {ZYDIS_MNEMONIC_DEC, SABOTAGE_GPR, 0}, true},
    {"a wrong carry after INC", {ZYDIS_MNEMONIC_INC, SABOTAGE_FLAG, RFLAGS_CF}, true},
    {"a flag that LEA changes", {ZYDIS_MNEMONIC_LEA, SABOTAGE_FLAG, RFLAGS_ZF}, true},
    {"a flag that CALL changes", {ZYDIS_MNEMONIC_CALL, SABOTAGE_FLAG, RFLAGS_SF}, true},
    {"a wrong byte in memory", {ZYDIS_MNEMONIC_CMP, SABOTAGE_MEMORY, 0}, true},
};

/* Hardly more than the damaged instruction is left, and no vector state. */
static bool shrunk_well(const struct test_case *c, const struct sabotage *s)
{
    ZydisDecoder decoder;
    ZydisDecodedInstruction in;
    bool found = false;

    decoder_init(&decoder, c->mode);
    for (unsigned i = 0; i < c->insns; i++)
        found |= ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, NULL, c->code + c->start[i],
                                                            c->length - c->start[i], &in)) &&
                 in.mnemonic == s->mnemonic;
    if (!found || c->insns > (c->shape == SHAPE_STRAIGHT ? 1 : 3))
        return false;
    for (unsigned i = 0; i < 32; i++)
        for (unsigned n = 0; n < 64; n++)
            if (c->in.zmm[i][n])
                return false;
    return !c->in.k[0] && !c->in.k[7] && c->in.mxcsr == 0x1f80;
}

static int try_sabotage(struct guest *g, const struct trial *t, unsigned mode, enum shape shape,
                        bool *good, struct error *err)
{
    static struct test_case c;
    struct generator_options o = {
        .seed = 1,
        .shape = shape,
        .filter = shape == SHAPE_STRAIGHT ? ZydisMnemonicGetString(t->sabotage.mnemonic) : NULL};
    struct generator *make = generator_new(mode, &o);
    unsigned noticed = 0, badly = 0;
    int r = 0;

    for (uint64_t n = 0; n < tries && r >= 0; n++) {
        generator_make(make, n, &c);
        guest_sabotage(g, NULL);
        r = case_check(g, &c, NULL, err);
        if (r != 1) /* a real difference is not what this is about */
            continue;
        guest_sabotage(g, &t->sabotage);
        r = case_check(g, &c, NULL, err);
        if (r != 0)
            continue;
        noticed++;
        if (noticed > 10)
            continue;
        r = case_shrink(g, &c, false, err);
        badly += !shrunk_well(&c, &t->sabotage);
    }
    guest_sabotage(g, NULL);
    generator_free(make);
    *good = t->noticed ? noticed > tries / 20 && !badly : !noticed;
    printf("%s: %s: noticed %u of %u, shrunk badly %u\n", *good ? "ok" : "NOT OK", t->what, noticed,
           tries, badly);
    return r < 0 ? r : 0;
}

int self_test(struct guest *g, struct error *err)
{
    unsigned bad = 0;

    for (size_t i = 0; i < ARRAY_SIZE(trials) + ARRAY_SIZE(shaped_trials); i++) {
        const bool shaped = i >= ARRAY_SIZE(trials);
        const struct trial *t = shaped ? &shaped_trials[i - ARRAY_SIZE(trials)] : &trials[i];
        bool good;
        int r = try_sabotage(g, t,
                             !shaped      ? 64
                             : i % 3 == 0 ? 64
                             : i % 3 == 1 ? 32
                                          : 16,
                             shaped ? SHAPE_LOOP : SHAPE_STRAIGHT, &good, err);

        if (r < 0)
            return r;
        bad += !good;
    }
    printf("cpu-oracle: self-test: %zu trials, %u failed\n",
           ARRAY_SIZE(trials) + ARRAY_SIZE(shaped_trials), bad);
    return bad ? 1 : 0;
}
