/* main.c - the program `hospes`; everything is in the commands (commands.c). */
#include "cli/cli.h"
#include "kvm/kvm.h"
#include "translator/translator.h"

int main(int argc, char **argv)
{
    engine_register(&engine_bt);
    engine_register(&engine_kvm);
    return cli_main(argc, argv);
}
