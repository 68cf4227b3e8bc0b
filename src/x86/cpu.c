/* cpu.c - to be written by its part's owner. */
