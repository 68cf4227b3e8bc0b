/*
 * keymap.c - see keymap.h. A layout is the US one and the keys on which it differs. Characters of
 * Latin 1 are their own keysyms; others are 0x01000000 + the Unicode number.
 */
#include "display/keymap.h"

#include <linux/input-event-codes.h>

struct key {
    uint16_t code;
    uint32_t plain, shifted, altgr; /* keysyms; 0: none */
};

struct keymap {
    const char *name;
    const struct key *keys; /* code 0 ends; they come before the US ones */
};

static const struct key us[] = {
    {KEY_GRAVE, '`', '~', 0},       {KEY_1, '1', '!', 0},
    {KEY_2, '2', '@', 0},           {KEY_3, '3', '#', 0},
    {KEY_4, '4', '$', 0},           {KEY_5, '5', '%', 0},
    {KEY_6, '6', '^', 0},           {KEY_7, '7', '&', 0},
    {KEY_8, '8', '*', 0},           {KEY_9, '9', '(', 0},
    {KEY_0, '0', ')', 0},           {KEY_MINUS, '-', '_', 0},
    {KEY_EQUAL, '=', '+', 0},       {KEY_Q, 'q', 'Q', 0},
    {KEY_W, 'w', 'W', 0},           {KEY_E, 'e', 'E', 0},
    {KEY_R, 'r', 'R', 0},           {KEY_T, 't', 'T', 0},
    {KEY_Y, 'y', 'Y', 0},           {KEY_U, 'u', 'U', 0},
    {KEY_I, 'i', 'I', 0},           {KEY_O, 'o', 'O', 0},
    {KEY_P, 'p', 'P', 0},           {KEY_LEFTBRACE, '[', '{', 0},
    {KEY_RIGHTBRACE, ']', '}', 0},  {KEY_BACKSLASH, '\\', '|', 0},
    {KEY_A, 'a', 'A', 0},           {KEY_S, 's', 'S', 0},
    {KEY_D, 'd', 'D', 0},           {KEY_F, 'f', 'F', 0},
    {KEY_G, 'g', 'G', 0},           {KEY_H, 'h', 'H', 0},
    {KEY_J, 'j', 'J', 0},           {KEY_K, 'k', 'K', 0},
    {KEY_L, 'l', 'L', 0},           {KEY_SEMICOLON, ';', ':', 0},
    {KEY_APOSTROPHE, '\'', '"', 0}, {KEY_Z, 'z', 'Z', 0},
    {KEY_X, 'x', 'X', 0},           {KEY_C, 'c', 'C', 0},
    {KEY_V, 'v', 'V', 0},           {KEY_B, 'b', 'B', 0},
    {KEY_N, 'n', 'N', 0},           {KEY_M, 'm', 'M', 0},
    {KEY_COMMA, ',', '<', 0},       {KEY_DOT, '.', '>', 0},
    {KEY_SLASH, '/', '?', 0},       {KEY_102ND, 0, 0, 0},
    {KEY_SPACE, ' ', ' ', 0},       {0, 0, 0, 0},
};

static const struct key none[] = {{0, 0, 0, 0}};

static const struct key gb[] = {
    {KEY_GRAVE, '`', 0xac, 0xa6},   {KEY_2, '2', '"', 0},
    {KEY_3, '3', 0xa3, 0},          {KEY_4, '4', '$', 0x20ac + 0x1000000},
    {KEY_APOSTROPHE, '\'', '@', 0}, {KEY_BACKSLASH, '#', '~', 0},
    {KEY_102ND, '\\', '|', 0},      {0, 0, 0, 0},
};

static const struct key de[] = {
    {KEY_GRAVE, '^', 0xb0, 0},
    {KEY_2, '2', '"', 0xb2},
    {KEY_3, '3', 0xa7, 0xb3},
    {KEY_6, '6', '&', 0},
    {KEY_7, '7', '/', '{'},
    {KEY_8, '8', '(', '['},
    {KEY_9, '9', ')', ']'},
    {KEY_0, '0', '=', '}'},
    {KEY_MINUS, 0xdf, '?', '\\'},
    {KEY_EQUAL, 0xb4, '`', 0},
    {KEY_Q, 'q', 'Q', '@'},
    {KEY_E, 'e', 'E', 0x20ac + 0x1000000},
    {KEY_Y, 'z', 'Z', 0},
    {KEY_Z, 'y', 'Y', 0},
    {KEY_LEFTBRACE, 0xfc, 0xdc, 0},
    {KEY_RIGHTBRACE, '+', '*', '~'},
    {KEY_BACKSLASH, '#', '\'', 0},
    {KEY_SEMICOLON, 0xf6, 0xd6, 0},
    {KEY_APOSTROPHE, 0xe4, 0xc4, 0},
    {KEY_M, 'm', 'M', 0xb5},
    {KEY_COMMA, ',', ';', 0},
    {KEY_DOT, '.', ':', 0},
    {KEY_SLASH, '-', '_', 0},
    {KEY_102ND, '<', '>', '|'},
    {0, 0, 0, 0},
};

static const struct key fr[] = {
    {KEY_GRAVE, 0xb2, '~', 0},
    {KEY_1, '&', '1', 0},
    {KEY_2, 0xe9, '2', '~'},
    {KEY_3, '"', '3', '#'},
    {KEY_4, '\'', '4', '{'},
    {KEY_5, '(', '5', '['},
    {KEY_6, '-', '6', '|'},
    {KEY_7, 0xe8, '7', '`'},
    {KEY_8, '_', '8', '\\'},
    {KEY_9, 0xe7, '9', '^'},
    {KEY_0, 0xe0, '0', '@'},
    {KEY_MINUS, ')', 0xb0, ']'},
    {KEY_EQUAL, '=', '+', '}'},
    {KEY_Q, 'a', 'A', 0},
    {KEY_W, 'z', 'Z', 0},
    {KEY_E, 'e', 'E', 0x20ac + 0x1000000},
    {KEY_LEFTBRACE, '^', 0xa8, 0},
    {KEY_RIGHTBRACE, '$', 0xa3, 0xa4},
    {KEY_BACKSLASH, '*', 0xb5, 0},
    {KEY_A, 'q', 'Q', 0},
    {KEY_SEMICOLON, 'm', 'M', 0},
    {KEY_APOSTROPHE, 0xf9, '%', 0},
    {KEY_Z, 'w', 'W', 0},
    {KEY_M, ',', '?', 0},
    {KEY_COMMA, ';', '.', 0},
    {KEY_DOT, ':', '/', 0},
    {KEY_SLASH, '!', 0xa7, 0},
    {KEY_102ND, '<', '>', 0},
    {0, 0, 0, 0},
};

static const struct keymap keymaps[] = {{"en-us", none}, {"en-gb", gb}, {"de", de}, {"fr", fr}};

/* Keys that are on every keyboard, by the numbers X11 gives them. */
static const struct {
    uint16_t keysym, code;
} functions[] = {
    {0xff08, KEY_BACKSPACE},  {0xff09, KEY_TAB},        {0xfe20, KEY_TAB}, /* with shift */
    {0xff0d, KEY_ENTER},      {0xff13, KEY_PAUSE},      {0xff14, KEY_SCROLLLOCK},
    {0xff15, KEY_SYSRQ},      {0xff1b, KEY_ESC},        {0xff50, KEY_HOME},
    {0xff51, KEY_LEFT},       {0xff52, KEY_UP},         {0xff53, KEY_RIGHT},
    {0xff54, KEY_DOWN},       {0xff55, KEY_PAGEUP},     {0xff56, KEY_PAGEDOWN},
    {0xff57, KEY_END},        {0xff61, KEY_SYSRQ},      {0xff63, KEY_INSERT},
    {0xff67, KEY_COMPOSE},    {0xff6b, KEY_PAUSE},      {0xff7e, KEY_RIGHTALT},
    {0xff7f, KEY_NUMLOCK},    {0xff8d, KEY_KPENTER},    {0xff95, KEY_KP7},
    {0xff96, KEY_KP4},        {0xff97, KEY_KP8},        {0xff98, KEY_KP6},
    {0xff99, KEY_KP2},        {0xff9a, KEY_KP9},        {0xff9b, KEY_KP3},
    {0xff9c, KEY_KP1},        {0xff9d, KEY_KP5},        {0xff9e, KEY_KP0},
    {0xff9f, KEY_KPDOT},      {0xffaa, KEY_KPASTERISK}, {0xffab, KEY_KPPLUS},
    {0xffac, KEY_KPDOT},      {0xffad, KEY_KPMINUS},    {0xffae, KEY_KPDOT},
    {0xffaf, KEY_KPSLASH},    {0xffb0, KEY_KP0},        {0xffb1, KEY_KP1},
    {0xffb2, KEY_KP2},        {0xffb3, KEY_KP3},        {0xffb4, KEY_KP4},
    {0xffb5, KEY_KP5},        {0xffb6, KEY_KP6},        {0xffb7, KEY_KP7},
    {0xffb8, KEY_KP8},        {0xffb9, KEY_KP9},        {0xffbe, KEY_F1},
    {0xffbf, KEY_F2},         {0xffc0, KEY_F3},         {0xffc1, KEY_F4},
    {0xffc2, KEY_F5},         {0xffc3, KEY_F6},         {0xffc4, KEY_F7},
    {0xffc5, KEY_F8},         {0xffc6, KEY_F9},         {0xffc7, KEY_F10},
    {0xffc8, KEY_F11},        {0xffc9, KEY_F12},        {0xffe1, KEY_LEFTSHIFT},
    {0xffe2, KEY_RIGHTSHIFT}, {0xffe3, KEY_LEFTCTRL},   {0xffe4, KEY_RIGHTCTRL},
    {0xffe5, KEY_CAPSLOCK},   {0xffe7, KEY_LEFTMETA},   {0xffe8, KEY_RIGHTMETA},
    {0xffe9, KEY_LEFTALT},    {0xffea, KEY_RIGHTALT},   {0xffeb, KEY_LEFTMETA},
    {0xffec, KEY_RIGHTMETA},  {0xfe03, KEY_RIGHTALT}, /* AltGr */
    {0xfe11, KEY_RIGHTALT},   {0xfe50, KEY_EQUAL},    /* dead grave: German */
    {0xfe51, KEY_EQUAL},                              /* dead acute */
    {0xfe52, KEY_GRAVE},                              /* dead circumflex */
    {0xfe57, KEY_LEFTBRACE},                          /* dead diaeresis: French */
    {0xffff, KEY_DELETE},
};

const struct keymap *keymap_find(const char *name)
{
    for (unsigned i = 0; i < ARRAY_SIZE(keymaps); i++)
        if (!strcmp(keymaps[i].name, name))
            return &keymaps[i];
    return NULL;
}

const char *keymap_names(void)
{
    return "en-us, en-gb, de, fr";
}

static unsigned find(const struct key *keys, const struct key *except, uint32_t keysym, bool *shift,
                     bool *altgr)
{
    for (const struct key *k = keys; k->code; k++) {
        bool other = false; /* the layout has something else on this key */

        for (const struct key *e = except; e && e->code; e++)
            other |= e->code == k->code;
        if (other || (k->plain != keysym && k->shifted != keysym && k->altgr != keysym))
            continue;
        *shift = k->plain != keysym && k->shifted == keysym;
        *altgr = k->plain != keysym && k->shifted != keysym;
        return k->code;
    }
    return 0;
}

unsigned keymap_code(const struct keymap *k, uint32_t keysym, bool *shift, bool *altgr)
{
    bool unread_shift = false, unread_altgr = false;
    unsigned code;

    shift = shift ? shift : &unread_shift;
    altgr = altgr ? altgr : &unread_altgr;
    *shift = *altgr = false;
    if (!keysym)
        return 0;
    if (keysym >= 0x1000020 && keysym <= 0x10000ff)
        keysym -= 0x1000000;
    if (keysym == 0x20ac)
        keysym += 0x1000000; /* the euro has a number of its own besides */
    for (unsigned i = 0; i < ARRAY_SIZE(functions); i++)
        if (functions[i].keysym == keysym)
            return functions[i].code;
    code = find(k->keys, NULL, keysym, shift, altgr);
    if (!code)
        code = find(us, k->keys, keysym, shift, altgr);
    /* What the layout lacks is where the US one has it: better than nothing. */
    return code ? code : find(us, NULL, keysym, shift, altgr);
}
