/*
 * remap.c - code under a memory map that changes: BIOS shadow RAM that is shown, hidden, written
 * while it cannot be read and read while it cannot be written, and SMRAM over the graphics window.
 * For both chip sets (440FX and Q35), through their PCI configuration.
 */
#include "apic.h"

enum { SHADOW = 0xe0000, WINDOW = 0xa0000, PAM_READ = 1, PAM_WRITE = 2 };
static u8 pam_register, smram_register;

static u32 config_address(u32 reg)
{
    return 0x80000000u | (reg & ~3u);
}

static void config_write(u32 reg, u8 value)
{
    outl(0xcf8, config_address(reg));
    outb((u16)(0xcfc + (reg & 3)), value);
}

static u8 config_read(u32 reg)
{
    outl(0xcf8, config_address(reg));
    return inb((u16)(0xcfc + (reg & 3)));
}

/* The lower half of the register: 0xe0000-0xe3fff. */
static void shadow(unsigned attributes)
{
    config_write(pam_register, (u8)((config_read(pam_register) & 0xf0) | attributes));
}

/* MOV EAX, n; RET */
static void emit(word at, u32 n)
{
    *(volatile u64 *)at = 0xb8 | (u64)n << 8 | 0xc3ull << 40;
}

static volatile u32 answer;

static void call(word at)
{
    answer = ((u32(*)(void))at)();
}

/* What it answers, the same 50 times; or 0xf0000 and the exception. */
static u32 calls(word at)
{
    u32 first = 0;

    for (u32 i = 0; i < 50; i++) {
        word vector = attempt(call, at);
        u32 now = vector == NONE ? answer : 0xf0000 + (u32)vector;

        if (i && now != first)
            return 0xbad;
        first = now;
    }
    return first;
}

static void shadow_ram(void)
{
    u8 before = config_read(pam_register);
    bool rom = false;

    shadow(0);
    for (u32 i = 0; i < 64; i++)
        rom |= *(volatile u8 *)(word)(SHADOW + i) != 0xff;
    shadow(PAM_READ | PAM_WRITE);
    emit(SHADOW, 1);
    expect("code in shadow RAM", calls(SHADOW), 1);
    emit(SHADOW, 2);
    expect("changed", calls(SHADOW), 2);
    shadow(PAM_READ);
    expect("where it cannot be written", calls(SHADOW), 2);
    emit(SHADOW, 3);
    expect("nor is it", calls(SHADOW), 2);
    shadow(PAM_WRITE);
    if (!rom)
        expect("what cannot be read is no code", calls(SHADOW), 0xf0000 + UD);
    emit(SHADOW, 4);
    if (!rom)
        expect("still", calls(SHADOW), 0xf0000 + UD);
    shadow(PAM_READ | PAM_WRITE);
    expect("what was written meanwhile is code now", calls(SHADOW), 4);
    for (u32 i = 0; i < 300; i++) {
        shadow(PAM_WRITE);
        *(volatile u32 *)(SHADOW + 1) = i;
        shadow(i & 1 ? PAM_READ : PAM_READ | PAM_WRITE);
        call(SHADOW);
        if (answer != i)
            break;
        call(SHADOW);
    }
    expect("again and again", answer, 299);
    config_write(pam_register, before);
}

static void smram(void)
{
    u8 before = config_read(smram_register);

    expect("SMRAM is not locked", before >> 4 & 1, 0);
    config_write(smram_register, 0x4a); /* open */
    emit(WINDOW, 5);
    expect("code in open SMRAM", calls(WINDOW), 5);
    config_write(smram_register, 0x0a);
    expect("closed, it is gone", calls(WINDOW) == 5, false);
    config_write(smram_register, 0x4a);
    expect("open again", calls(WINDOW), 5);
    emit(WINDOW, 6);
    expect("and changed", calls(WINDOW), 6);
    config_write(smram_register, before);
}

void test(void)
{
    bool q35;

    outl(0xcf8, 0x80000000u);
    q35 = inl(0xcfc) == 0x29c08086;
    pam_register = q35 ? 0x95 : 0x5e;
    smram_register = q35 ? 0x9d : 0x72;
    shadow_ram();
    smram();
}
