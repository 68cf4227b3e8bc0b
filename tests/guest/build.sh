#!/bin/sh
# build.sh CC BITS OUTPUT SOURCE [-D...]: link a test kernel into a flat binary.
set -eu
cc=$1 bits=$2 out=$3 source=$4
shift 4
here=$(dirname "$0")
exec "$cc" "-m$bits" "$@" -std=gnu17 -O1 -g -Wall -Wextra -Werror -Wno-unused-parameter -ffreestanding -nostdlib -static -fno-pie \
    -fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables -mno-red-zone -mgeneral-regs-only \
    -fno-strict-aliasing -Wl,--build-id=none -Wl,--oformat=binary -Wl,-T,"$here/kernel.ld" -I"$here" \
    -o "$out" "$here/start.S" "$here/kernel.c" "$source"
