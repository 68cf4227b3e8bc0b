/* test_machine.c - to be written by its owner. */
