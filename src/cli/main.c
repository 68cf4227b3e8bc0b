/* main.c - the program `hospes`; everything is in the commands (commands.c). */
#include "cli/cli.h"

int main(int argc, char **argv)
{
    return cli_main(argc, argv);
}
