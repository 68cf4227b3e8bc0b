/*
 * test_integer.c - general-purpose instructions, one row each: mode, bytes, registers and flags
 * before, what differs after. Memory operands use GUEST_DATA in RBX.
 *
 * Expected values are the manual's, not what the code gave; flags the manual leaves undefined are
 * not looked at.
 */
#include "guest.h"

enum { CF = RFLAGS_CF, PF = RFLAGS_PF, AF = RFLAGS_AF, ZF = RFLAGS_ZF, SF = RFLAGS_SF };
enum { OF = RFLAGS_OF, ALL = RFLAGS_STATUS, DF = RFLAGS_DF };

struct value {
    uint64_t rax, rcx, rdx, mem;
};

struct row {
    const char *name;
    enum guest_mode mode;
    const char *code;
    struct value before;
    uint32_t flags_before;
    struct value after;
    uint32_t flags_after, flags_checked;
    int exception; /* vector + 1; 0: none */
};

/* clang-format off */
static const struct row rows[] = {
    {"add al, cl", LONG64, "00c8", {0xff, 1}, 0, {0, 1}, CF | PF | AF | ZF, ALL},
    {"add ah, ch", LONG64, "00ec", {0x7f00, 0x100}, 0, {0x8000, 0x100}, AF | SF | OF, ALL},
    {"add eax, ecx clears the upper half", LONG64, "01c8", {0xffffffff00000001, 1}, 0, {2, 1}, 0, ALL},
    {"add rax, rcx", LONG64, "4801c8", {0x7fffffffffffffff, 1}, 0, {0x8000000000000000, 1}, PF | AF | SF | OF, ALL},
    {"add ax, imm", PROT32, "6605ff00", {0x1234ff01}, 0, {0x12340000}, CF | PF | AF | ZF, ALL},
    {"add rax, imm8 sign-extended", LONG64, "4883c0ff", {5}, 0, {4}, CF | AF, ALL},
    {"add rax, imm32 sign-extended", LONG64, "480500000080", {0}, 0, {0xffffffff80000000}, PF | SF, ALL},
    {"add [rbx], eax", LONG64, "0103", {1, 0, 0, 0xfffffffeffffffff}, 0, {1, 0, 0, 0xfffffffe00000000}, CF | PF | AF | ZF, ALL},
    {"lock add [rbx], rax", LONG64, "f0480103", {1, 0, 0, 0xffffffffffffffff}, 0, {1, 0, 0, 0}, CF | PF | AF | ZF, ALL},
    {"lock add to register", LONG64, "f001c8", {1, 2}, 0, {1, 2}, 0, 0, 7},
    {"adc with carry", LONG64, "11c8", {0xffffffff, 0}, CF, {0}, CF | PF | AF | ZF, ALL},
    {"sbb with borrow", LONG64, "19c8", {0, 0}, CF, {0xffffffff}, CF | PF | AF | SF, ALL},
    {"sub", LONG64, "29c8", {1, 2}, 0, {0xffffffff, 2}, CF | PF | AF | SF, ALL},
    {"cmp leaves it", LONG64, "39c8", {1, 2}, 0, {1, 2}, CF | PF | AF | SF, ALL},
    {"cmp mem, imm8", LONG64, "803b7f", {0, 0, 0, 0x80}, 0, {0, 0, 0, 0x80}, AF | OF, ALL},
    {"and", LONG64, "21c8", {0xf0, 0x0f}, CF | OF, {0, 0x0f}, PF | ZF, ALL & ~AF},
    {"or", LONG64, "09c8", {0x80000000, 1}, CF | OF, {0x80000001, 1}, SF, ALL & ~AF},
    {"xor", LONG64, "31c0", {5}, CF, {0}, PF | ZF, ALL & ~AF},
    {"test", LONG64, "84c0", {0x80}, CF, {0x80}, SF, ALL & ~AF},
    {"inc keeps CF", LONG64, "ffc0", {0xffffffff}, CF, {0}, CF | PF | AF | ZF, ALL},
    {"dec word in 16-bit code", REAL16, "48", {0x18000}, 0, {0x17fff}, PF | AF | OF, ALL},
    {"neg", LONG64, "f7d8", {0x80000000}, 0, {0x80000000}, CF | PF | SF | OF, ALL},
    {"neg byte mem", LONG64, "f61b", {0, 0, 0, 0x101}, 0, {0, 0, 0, 0x1ff}, CF | PF | AF | SF, ALL},
    {"not keeps flags", LONG64, "48f7d0", {0}, ALL, {UINT64_MAX}, ALL, ALL},
    {"lock not mem", LONG64, "f0f613", {0, 0, 0, 0x55aa}, ALL, {0, 0, 0, 0x5555}, ALL, ALL},

    {"shl by 1", LONG64, "d1e0", {0x80000001}, 0, {2}, CF | OF, ALL & ~AF},
    {"shl by 0 keeps flags", LONG64, "d3e0", {7, 0x20}, ALL, {7, 0x20}, ALL, ALL},
    {"shr imm", LONG64, "c0e804", {0x1f8}, 0, {0x10f}, CF | PF, ALL & ~(AF | OF)},
    {"sar", LONG64, "48d3f8", {0x8000000000000000, 63}, 0, {UINT64_MAX, 63}, PF | SF, ALL & ~(AF | OF)},
    {"rol byte by 8 sets CF", LONG64, "c0c008", {0x81}, 0, {0x81}, CF, CF | ZF | SF},
    {"ror", LONG64, "d1c8", {1}, 0, {0x80000000}, CF | OF, CF | OF},
    {"rcl through carry", LONG64, "d0d0", {0x80}, CF, {0x01}, CF | OF, CF | OF},
    {"rcr word", LONG64, "66d1d8", {1}, CF, {0x8000}, CF | OF, CF | OF},
    {"rcr mem imm", LONG64, "48c11b04", {0, 0, 0, 0x10}, CF, {0, 0, 0, 0x1000000000000001}, 0, CF},
    {"shld", LONG64, "0fa4c808", {0x12345678, 0xabcdef01}, 0, {0x345678ab, 0xabcdef01}, 0, CF},
    {"shrd cl", LONG64, "0fadd0", {0x12345678, 4, 0xabcdef0f}, 0, {0xf1234567, 4, 0xabcdef0f}, CF | SF, CF | SF | ZF},
    {"shrd mem", LONG64, "0fac1308", {0, 0, 0x9a, 0x12345678}, 0, {0, 0, 0x9a, 0x9a123456}, 0, CF},

    {"mul", LONG64, "f7e1", {0xffffffff, 2, 9}, 0, {0xfffffffe, 2, 1}, CF | OF, CF | OF},
    {"mul byte", LONG64, "f6e1", {0x1234567880, 2}, 0, {0x1234560100, 2}, CF | OF, CF | OF},
    {"imul one operand", LONG64, "48f7e9", {UINT64_MAX, 5}, 0, {-UINT64_C(5), 5, UINT64_MAX}, 0, CF | OF},
    {"imul two operands overflows", LONG64, "660fafc1", {0x4000, 2}, 0, {0x8000, 2}, CF | OF, CF | OF},
    {"imul three operands", LONG64, "6bc1fe", {0, 7}, 0, {0xfffffff2, 7}, 0, CF | OF},
    {"div", LONG64, "f7f1", {7, 2}, 0, {3, 2, 1}, 0, 0},
    {"div by zero", LONG64, "f7f1", {7, 0}, 0, {7}, 0, 0, 1},
    {"div overflow", LONG64, "48f7f1", {0, 1, 1}, 0, {0, 1, 1}, 0, 0, 1},
    {"div byte", LONG64, "f6f1", {0x0107, 2}, 0, {0x0183, 2}, 0, 0},
    {"idiv", LONG64, "48f7f9", {-UINT64_C(7), 2, UINT64_MAX}, 0, {-UINT64_C(3), 2, UINT64_MAX}, 0, 0},
    {"idiv min by -1", LONG64, "48f7f9", {0x8000000000000000, UINT64_MAX, UINT64_MAX}, 0, {0x8000000000000000, UINT64_MAX, UINT64_MAX}, 0, 0, 1},
    {"idiv byte", LONG64, "f6f9", {0xfff9, 2}, 0, {0xfffd, 2}, 0, 0},
    {"idiv byte overflow", LONG64, "f6f9", {0x0100, 1}, 0, {0x0100, 1}, 0, 0, 1},
    {"idiv 128-bit extreme", LONG64, "48f7f9", {0, UINT64_MAX, 0x8000000000000000}, 0, {0, UINT64_MAX, 0x8000000000000000}, 0, 0, 1},

    {"bt register wraps", LONG64, "0fa3c8", {2, 33}, 0, {2, 33}, CF, CF},
    {"bts imm", LONG64, "0fbae81f", {0}, 0, {0x80000000}, 0, CF},
    {"btr mem beyond", LONG64, "0fb30b", {0, 37, 0, 0xffffffffffffffff}, 0, {0, 37, 0, 0xffffffdfffffffff}, CF, CF},
    {"btc mem word lock", LONG64, "f0660fbb0b", {0, 0x11, 0, 0}, 0, {0, 0x11, 0, 0x20000}, 0, CF},
    {"bt mem negative", LONG64, "480fa34b08", {0, UINT64_MAX, 0, 0x8000000000000000}, 0, {0, UINT64_MAX, 0, 0x8000000000000000}, CF, CF},
    {"bsf", LONG64, "0fbcc1", {9, 0x100}, 0, {8, 0x100}, 0, ZF},
    {"bsf zero", LONG64, "480fbcc1", {9, 0}, 0, {9, 0}, ZF, ZF},
    {"bsr", LONG64, "480fbdc1", {9, 0x8000000000000001}, 0, {63, 0x8000000000000001}, 0, ZF},
    {"lzcnt", LONG64, "f30fbdc1", {9, 1}, 0, {31, 1}, 0, CF | ZF},
    {"tzcnt zero", LONG64, "66f30fbcc1", {9, 0}, 0, {16, 0}, CF, CF | ZF},
    {"popcnt", LONG64, "f3480fb8c1", {9, 0xff00ff}, ALL, {16, 0xff00ff}, 0, ALL},
    {"bswap", LONG64, "480fc8", {0x0102030405060708}, 0, {0x0807060504030201}, 0, 0},
    {"movbe", LONG64, "0f38f003", {UINT64_MAX, 0, 0, 0x04030201}, 0, {0x01020304, 0, 0, 0x04030201}, 0, 0},
    {"adcx", LONG64, "66480f38f6c1", {UINT64_MAX, 1}, OF, {0, 1}, OF | CF, ALL},
    {"adox", LONG64, "f30f38f6c1", {0xffffffff, 0}, OF, {0, 0}, OF, ALL},

    {"mov ah", LONG64, "b480", {0}, 0, {0x8000}, 0, 0},
    {"mov imm32 to 64", LONG64, "48c7c0ffffffff", {0}, 0, {UINT64_MAX}, 0, 0},
    {"mov imm64", LONG64, "48b80807060504030201", {0}, 0, {0x0102030405060708}, 0, 0},
    {"mov moffs64", LONG64, "48a10090000000000000", {0, 0, 0, 0x1122334455667788}, 0, {0x1122334455667788, 0, 0, 0x1122334455667788}, 0, 0},
    {"mov moffs32", PROT32, "a300900000", {0x99aabbcc, 0, 0, 0}, 0, {0x99aabbcc, 0, 0, 0x99aabbcc}, 0, 0},
    {"mov to mem, 16-bit addressing", REAL16, "8907", {0x1234, 0, 0, 0}, 0, {0x1234, 0, 0, 0x1234}, 0, 0},
    {"mov sib", LONG64, "488b448bfc", {0, 1, 0, 0x55}, 0, {0x55, 1, 0, 0x55}, 0, 0},
    {"movzx", LONG64, "0fb6c4", {0xabcd}, 0, {0xab}, 0, 0},
    {"movsx mem", LONG64, "480fbf03", {0, 0, 0, 0x8000}, 0, {0xffffffffffff8000, 0, 0, 0x8000}, 0, 0},
    {"movsxd", LONG64, "4863c1", {0, 0x80000000}, 0, {0xffffffff80000000, 0x80000000}, 0, 0},
    {"lea 32 of 64", LONG64, "8d440901", {0, 0xffffffff}, 0, {0xffffffff, 0xffffffff}, 0, 0},
    {"lea 16-bit address", PROT32, "67668d4701", {0xffff0000}, 0, {0xffff9001}, 0, 0},
    {"xchg mem", LONG64, "4887 03", {1, 0, 0, 2}, 0, {2, 0, 0, 1}, 0, 0},
    {"xchg reg", LONG64, "91", {UINT64_MAX, 2}, 0, {2, 0xffffffff}, 0, 0},
    {"REX.B without base", LONG64, "67 498b 04 25 00900000", {0, 0, 0, 0x1122}, 0, {0x1122, 0, 0, 0x1122}, 0, 0},
    {"pause with REX.B is xchg r8", LONG64, "f3 49 90", {5}, 0, {0}, 0, 0},
    {"nop is not xchg eax", LONG64, "90", {UINT64_MAX}, 0, {UINT64_MAX}, 0, 0},
    {"xadd mem", LONG64, "f00fc103", {1, 0, 0, 0xffffffff}, 0, {0xffffffff, 0, 0, 0}, CF | PF | AF | ZF, ALL},
    {"cmpxchg equal", LONG64, "f00fb10b", {5, 7, 0, 5}, 0, {5, 7, 0, 7}, ZF | PF, ALL},
    {"cmpxchg differs", LONG64, "0fb10b", {0xffffffff00000004, 7, 0, 5}, 0, {5, 7, 0, 5}, CF | PF | AF | SF, ALL},
    {"cmpxchg8b", LONG64, "f00fc70b", {8, 1, 9, 0x0000000900000008}, 0, {8, 1, 9, 0x0000000100009000}, ZF, ZF},
    {"cmpxchg16b unaligned", LONG64, "480fc74b08", {0}, 0, {0}, 0, 0, 14},
    {"cbw", LONG64, "6698", {0x12380}, 0, {0x1ff80}, 0, 0},
    {"cdqe", LONG64, "4898", {0x80000000}, 0, {0xffffffff80000000}, 0, 0},
    {"cdq", LONG64, "99", {0x80000000, 0, UINT64_MAX}, 0, {0x80000000, 0, 0xffffffff}, 0, 0},
    {"cqo", LONG64, "4899", {0x8000000000000000}, 0, {0x8000000000000000, 0, UINT64_MAX}, 0, 0},
    {"xlat", LONG64, "d7", {0x104, 0, 0, 0x6600000000}, 0, {0x166, 0, 0, 0x6600000000}, 0, 0},

    {"daa", PROT32, "27", {0x9a}, 0, {0x00}, CF | AF | ZF | PF, ALL & ~OF},
    {"daa keeps carry", PROT32, "27", {0x15}, CF, {0x75}, CF, ALL & ~OF},
    {"das", PROT32, "2f", {0xee}, CF | AF, {0x88}, CF | AF | SF | PF, ALL & ~OF},
    {"das borrows", PROT32, "2f", {0x05}, AF, {0xff}, CF | AF | SF | PF, ALL & ~OF},
    {"aaa", PROT32, "37", {0x00ff}, 0, {0x0205}, CF | AF, CF | AF},
    {"aas", PROT32, "3f", {0x0200}, AF, {0x000a & 0xf}, CF | AF, 0},
    {"aam", PROT32, "d40a", {0x63}, 0, {0x0909}, PF, SF | ZF | PF},
    {"aam 0", PROT32, "d400", {0x63}, 0, {0x63}, 0, 0, 1},
    {"aad", PROT32, "d50a", {0x0909}, 0, {0x0063}, PF, SF | ZF | PF},
    {"daa in 64-bit mode", LONG64, "27", {0x9a}, 0, {0x9a}, 0, 0, 7},
    {"salc", PROT32, "d6", {0}, CF, {0xff}, CF, CF},

    {"lahf", LONG64, "9f", {0}, ALL & ~OF, {0xd700}, ALL & ~OF, ALL},
    {"sahf keeps OF", LONG64, "9e", {0xff00}, OF, {0xff00}, ALL, ALL},
    {"cmc", LONG64, "f5", {0}, 0, {0}, CF, CF},
    {"std", LONG64, "fd", {0}, 0, {0}, DF, DF},
    {"setl", LONG64, "0f9cc0", {0}, SF, {1}, SF, ALL},
    {"setnle", LONG64, "0f9f03", {0, 0, 0, 0xff}, SF | OF, {0, 0, 0, 1}, 0, 0},
    {"cmov not taken still clears", LONG64, "0f44c1", {UINT64_MAX, 1}, 0, {0xffffffff, 1}, 0, 0},
    {"cmov taken", LONG64, "480f45c1", {UINT64_MAX, 1}, 0, {1, 1}, 0, 0},
    {"bound within", PROT32, "6203", {1, 0, 0, 0x0000000500000000}, 0, {1, 0, 0, 0x0000000500000000}, 0, 0},
    {"bound outside", PROT32, "6203", {6, 0, 0, 0x0000000500000000}, 0, {6, 0, 0, 0x0000000500000000}, 0, 0, 6},

    {"ud2", LONG64, "0f0b", {0}, 0, {0}, 0, 0, 7},
    {"endbr64 is a nop", LONG64, "f30f1efa", {1}, ALL, {1}, ALL, ALL},
    {"bndmk is a nop", LONG64, "f30f1b03", {1}, ALL, {1}, ALL, ALL},
    {"long nop", LONG64, "660f1f440000", {1}, ALL, {1}, ALL, ALL},
    {"prefetch does not fault", LONG64, "0f180c2500000200", {1}, ALL, {1}, ALL, ALL},
    {"fourteen prefixes", LONG64, "6666666666666666666666666666 90", {1}, 0, {1}, 0, 0},
    {"fifteen prefixes", LONG64, "666666666666666666666666666666 90", {1}, 0, {1}, 0, 0, 14},
};
/* clang-format on */

static void check_row(const struct row *r)
{
    struct guest *g = guest_new(r->mode);
    struct cpu *cpu = g->cpu;
    uint64_t mem;
    int exception;

    cpu->gpr[GPR_RAX] = r->before.rax;
    cpu->gpr[GPR_RCX] = r->before.rcx;
    cpu->gpr[GPR_RDX] = r->before.rdx;
    cpu->gpr[GPR_RBX] = GUEST_DATA;
    memcpy(guest_memory(g, GUEST_DATA), &r->before.mem, 8);
    cpu->rflags |= r->flags_before;
    guest_code(g, GUEST_CODE, r->code);
    exception = guest_step(g, 1);
    memcpy(&mem, guest_memory(g, GUEST_DATA), 8);
    if (exception + 1 != r->exception || cpu->gpr[GPR_RAX] != r->after.rax ||
        (r->after.rcx && cpu->gpr[GPR_RCX] != r->after.rcx) ||
        (r->after.rdx && cpu->gpr[GPR_RDX] != r->after.rdx) ||
        (r->before.mem != r->after.mem && mem != r->after.mem) ||
        (!r->exception && ((cpu->rflags ^ r->flags_after) & r->flags_checked)) ||
        (!r->exception && cpu->rip <= GUEST_CODE))
        fail_msg("%s: exception %d rax %#lx rcx %#lx rdx %#lx mem %#lx flags %#lx rip %#lx",
                 r->name, exception, cpu->gpr[GPR_RAX], cpu->gpr[GPR_RCX], cpu->gpr[GPR_RDX], mem,
                 cpu->rflags, cpu->rip);
    guest_free(g);
}

static void test_rows(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        check_row(&rows[i]);
}

/* Features the model lacks: #UD, or the older meaning of the bytes. */
static void test_features(void **state)
{
    static const struct {
        const char *code;
        enum cpu_feature feature;
        int exception;
    } features[] = {
        {"f30fb8c1", FEATURE_POPCNT, EXC_UD}, {"0f38f003", FEATURE_MOVBE, EXC_UD},
        {"480fc70b", FEATURE_CX16, EXC_UD},   {"0fc7f0", FEATURE_RDRAND, EXC_UD},
        {"660f38f6c1", FEATURE_ADX, EXC_UD},  {"9f", FEATURE_LAHF_LM, EXC_UD},
        {"0fc70b", FEATURE_CX8, EXC_UD},      {"0f44c1", FEATURE_CMOV, EXC_UD},
        {"f30fbdc1", FEATURE_ABM, -1},        {"f30fbcc1", FEATURE_BMI1, -1},
        {"0fae3b", FEATURE_CLFLUSH, EXC_UD},
    };

    for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
        for (int there = 0; there < 2; there++) {
            struct guest *g = guest_new(LONG64);
            unsigned f = features[i].feature;
            int exception;

            if (!there)
                g->model.word[f / 32] &= ~(1u << f % 32);
            g->cpu->gpr[GPR_RBX] = GUEST_DATA;
            g->cpu->gpr[GPR_RCX] = 0x10;
            guest_code(g, GUEST_CODE, features[i].code);
            exception = guest_step(g, 1);
            assert_int_equal(exception, there ? -1 : features[i].exception);
            /* BSR and BSF of 0x10 where LZCNT and TZCNT are not known. */
            if (!there && features[i].exception == -1)
                assert_int_equal(g->cpu->gpr[GPR_RAX], 4);
            guest_free(g);
        }
    }
}

static void test_stack(void **state)
{
    static const struct {
        enum guest_mode mode;
        const char *code;
        unsigned size;
        uint64_t pushed;
    } pushes[] = {
        {LONG64, "50", 8, 0x1122334455667788},
        {LONG64, "6650", 2, 0x7788},
        {LONG64, "6aff", 8, UINT64_MAX},
        {LONG64, "6800000080", 8, 0xffffffff80000000},
        {LONG64, "54", 8, GUEST_STACK},
        {PROT32, "50", 4, 0x55667788},
        {PROT32, "6aff", 4, 0xffffffff},
        {REAL16, "50", 2, 0x7788},
        {REAL16, "6650", 4, 0x55667788},
        {LONG64, "ff33", 8, 0x0807060504030201},
        {LONG64, "e8fbffffff", 8, GUEST_CODE + 5},
        {PROT16, "e8fdff", 2, GUEST_CODE + 3},
        {LONG64, "66e8fbffffff", 8, GUEST_CODE + 6},
    };

    for (size_t i = 0; i < ARRAY_SIZE(pushes); i++) {
        struct guest *g = guest_new(pushes[i].mode);
        uint64_t value = 0;

        g->cpu->gpr[GPR_RAX] = 0x1122334455667788;
        g->cpu->gpr[GPR_RBX] = GUEST_DATA;
        memcpy(guest_memory(g, GUEST_DATA), "\1\2\3\4\5\6\7\10", 8);
        guest_code(g, GUEST_CODE, pushes[i].code);
        assert_int_equal(guest_step(g, 1), -1);
        assert_int_equal(g->cpu->gpr[GPR_RSP], GUEST_STACK - pushes[i].size);
        memcpy(&value, guest_memory(g, GUEST_STACK - pushes[i].size), pushes[i].size);
        assert_int_equal(value, pushes[i].pushed);
        guest_free(g);
    }
}

static void test_pop(void **state)
{
    struct guest *g = guest_new(LONG64);

    memcpy(guest_memory(g, GUEST_STACK), "\1\2\3\4\5\6\7\10", 8);
    guest_code(g, GUEST_CODE, "5c"); /* pop rsp */
    assert_int_equal(guest_step(g, 1), -1);
    assert_int_equal(g->cpu->gpr[GPR_RSP], 0x0807060504030201);
    /* pop [rsp+8]: the address counts from after the pop */
    g->cpu->gpr[GPR_RSP] = GUEST_STACK;
    guest_code(g, GUEST_CODE, "8f442408");
    assert_int_equal(guest_step(g, 1), -1);
    assert_int_equal(g->cpu->gpr[GPR_RSP], GUEST_STACK + 8);
    assert_memory_equal(guest_memory(g, GUEST_STACK + 16), "\1\2\3\4\5\6\7\10", 8);
    /* pop [hole] changes nothing */
    g->cpu->gpr[GPR_RSP] = GUEST_STACK;
    guest_code(g, GUEST_CODE, "8f042500000200");
    assert_int_equal(guest_step(g, 1), EXC_PF);
    assert_int_equal(g->cpu->cr2, GUEST_HOLE);
    assert_int_equal(g->cpu->gpr[GPR_RSP], GUEST_STACK - 48);
    guest_free(g);
}

static void test_enter_leave(void **state)
{
    struct guest *g = guest_new(LONG64);
    uint64_t words[4];

    /* enter 0x20, 2; the caller's frame at DATA+0x100 knows one outer frame */
    g->cpu->gpr[GPR_RBP] = GUEST_DATA + 0x100;
    memcpy(guest_memory(g, GUEST_DATA + 0xf8), "\x77\0\0\0\0\0\0\0", 8);
    guest_code(g, GUEST_CODE, "c8200002 c9");
    assert_int_equal(guest_step(g, 1), -1);
    assert_int_equal(g->cpu->gpr[GPR_RBP], GUEST_STACK - 8);
    assert_int_equal(g->cpu->gpr[GPR_RSP], GUEST_STACK - 24 - 0x20);
    memcpy(words, guest_memory(g, GUEST_STACK - 24), 24);
    assert_int_equal(words[0], GUEST_STACK - 8);
    assert_int_equal(words[1], 0x77);
    assert_int_equal(words[2], GUEST_DATA + 0x100);
    assert_int_equal(guest_step(g, 1), -1);
    assert_int_equal(g->cpu->gpr[GPR_RBP], GUEST_DATA + 0x100);
    assert_int_equal(g->cpu->gpr[GPR_RSP], GUEST_STACK);
    guest_free(g);
}

static void test_pusha_popa(void **state)
{
    struct guest *g = guest_new(PROT32);

    for (unsigned r = 0; r < 8; r++)
        if (r != GPR_RSP)
            g->cpu->gpr[r] = 0x100 + r;
    guest_code(g, GUEST_CODE, "60 31c0 31c9 31f6 61");
    assert_int_equal(guest_step(g, 1), -1);
    assert_int_equal(g->cpu->gpr[GPR_RSP], GUEST_STACK - 32);
    assert_int_equal(load_le(guest_memory(g, GUEST_STACK - 4), 4), 0x100);
    assert_int_equal(load_le(guest_memory(g, GUEST_STACK - 20), 4), GUEST_STACK);
    assert_int_equal(guest_step(g, 4), -1);
    assert_int_equal(g->cpu->gpr[GPR_RAX], 0x100);
    assert_int_equal(g->cpu->gpr[GPR_RSI], 0x106);
    assert_int_equal(g->cpu->gpr[GPR_RSP], GUEST_STACK);
    guest_free(g);
}

static void test_branches(void **state)
{
    static const struct {
        enum guest_mode mode;
        const char *code;
        uint64_t rcx, flags, target;
        uint64_t rcx_after;
    } branches[] = {
        {LONG64, "eb10", 0, 0, GUEST_CODE + 0x12, 0},
        {LONG64, "e900ffffff", 0, 0, GUEST_CODE - 0xfb, 0},
        {PROT16, "e9f0ff", 0, 0, GUEST_CODE - 0xd, 0},
        {LONG64, "74fe", 0, RFLAGS_ZF, GUEST_CODE, 0},
        {LONG64, "75fe", 0, RFLAGS_ZF, GUEST_CODE + 2, 0},
        {LONG64, "0f8f00010000", 0, 0, GUEST_CODE + 0x106, 0},
        {LONG64, "7c10", 0, RFLAGS_OF, GUEST_CODE + 0x12, 0},
        {LONG64, "ffe1", 0x6000, 0, 0x6000, 0x6000},
        {LONG64, "e210", 2, 0, GUEST_CODE + 0x12, 1},
        {LONG64, "e210", 1, 0, GUEST_CODE + 2, 0},
        {LONG64, "67e210", 0x100000001, 0, GUEST_CODE + 3, 0},
        {REAL16, "e210", 0x10001, 0, GUEST_CODE + 2, 0x10000},
        {LONG64, "e110", 2, RFLAGS_ZF, GUEST_CODE + 0x12, 1},
        {LONG64, "e010", 2, RFLAGS_ZF, GUEST_CODE + 2, 1},
        {LONG64, "e310", 0, 0, GUEST_CODE + 0x12, 0},
        {LONG64, "67e310", 0x100000000, 0, GUEST_CODE + 0x13, 0x100000000},
        {PROT32, "66e900f0", 0, 0, 0x4004, 0},
    };

    for (size_t i = 0; i < ARRAY_SIZE(branches); i++) {
        struct guest *g = guest_new(branches[i].mode);

        g->cpu->gpr[GPR_RCX] = branches[i].rcx;
        g->cpu->rflags |= branches[i].flags;
        guest_code(g, GUEST_CODE, branches[i].code);
        assert_int_equal(guest_step(g, 1), -1);
        assert_int_equal(g->cpu->rip, branches[i].target);
        assert_int_equal(g->cpu->gpr[GPR_RCX], branches[i].rcx_after);
        guest_free(g);
    }
}

/* A branch that may not be: nothing is pushed, RIP stays. */
static void test_bad_branches(void **state)
{
    struct guest *g = guest_new(LONG64);

    g->cpu->gpr[GPR_RCX] = 0x8000000000000000;
    guest_code(g, GUEST_CODE, "ffd1"); /* call rcx */
    assert_int_equal(guest_step(g, 1), EXC_GP);
    assert_int_equal(g->cpu->gpr[GPR_RSP], GUEST_STACK - 48);
    assert_int_equal(load_le(guest_memory(g, GUEST_STACK - 40), 8), GUEST_CODE);
    guest_free(g);
    g = guest_new(PROT32);
    g->cpu->seg[SEG_CS].limit = 0x7fff;
    guest_code(g, GUEST_CODE, "e900300000");
    assert_int_equal(guest_step(g, 1), EXC_GP);
    guest_free(g);
}

static void test_ret(void **state)
{
    struct guest *g = guest_new(LONG64);

    memcpy(guest_memory(g, GUEST_STACK), "\x00\x60\0\0\0\0\0\0", 8);
    guest_code(g, GUEST_CODE, "c21000");
    assert_int_equal(guest_step(g, 1), -1);
    assert_int_equal(g->cpu->rip, 0x6000);
    assert_int_equal(g->cpu->gpr[GPR_RSP], GUEST_STACK + 0x18);
    guest_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),        cmocka_unit_test(test_features),
        cmocka_unit_test(test_stack),       cmocka_unit_test(test_pop),
        cmocka_unit_test(test_enter_leave), cmocka_unit_test(test_pusha_popa),
        cmocka_unit_test(test_branches),    cmocka_unit_test(test_bad_branches),
        cmocka_unit_test(test_ret),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
