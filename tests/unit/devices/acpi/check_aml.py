#!/usr/bin/env python3
"""check_aml.py DUMP_TABLES: is our AML what ACPICA reads, and does it say what it should?

iasl takes the tables apart and puts them together again; acpiexec, ACPICA's interpreter in a
process, loads them and evaluates what a guest will: presence of devices, the PCI windows, the
sleep package, processors.
"""
import re
import subprocess
import sys
import tempfile

PC, Q35, MICROVM = 0, 1, 2
EXPECTED = [
    (PC, r"\_SB.PCI0.ISA.COM1._STA", "0000000F"),
    (PC, r"\_SB.PCI0.ISA.COM2._STA", "00000000"),
    (PC, r"\_SB.PCI0.ISA.KBD._STA", "0000000F"),
    (PC, r"\_SB.PCI0.ISA.FWCF._STA", "00000000"),
    (PC, r"\_SB.HPET._STA", "0000000F"),
    (PC, r"\_SB.C002._UID", "00000002"),
    (PC, r"\_S5", "[Integer] = 0000000000000000"),
    (PC, r"\_SB.PCI0._CRS", None),
    (Q35, r"\_S5", "[Integer] = 0000000000000007"),
    (Q35, r"\_SB.PCI0._CRS", None),
    (Q35, r"\_SB.C001._HID", "ACPI0007"),
    (MICROVM, r"\_S5", "[Integer] = 0000000000000005"),
    (MICROVM, r"\_SB.ISA.COM1._STA", "0000000F"),
]


def run(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          stdin=subprocess.DEVNULL, timeout=60)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: status {done.returncode}\n{done.stdout}")
    return done.stdout


def evaluate(tables, paths):
    """What acpiexec prints for each path, in one run of it."""
    out = run("acpiexec", "-b", "; ".join(f"evaluate {p}" for p in paths), *tables)
    if "failed with status" in out or "ACPI Error" in out:
        sys.exit(out)
    parts = out.split("Evaluating ")[1:]
    if len(parts) != len(paths):
        sys.exit(f"{len(parts)} answers to {len(paths)} questions:\n{out}")
    return parts


def buffer_bytes(text):
    rows = re.findall(r"^ +[0-9A-F]{4}: ((?:[0-9A-F]{2} )+)", text, re.M)
    return bytes.fromhex("".join(rows))


def check_windows(text, board):
    data = buffer_bytes(text)
    low = bytes.fromhex("000000c0ffffbffe")  # first and last, 32-bit little-endian
    high = (0x200000000).to_bytes(8, "little") + (0xfffffffff).to_bytes(8, "little")
    if low not in data or high not in data:
        sys.exit(f"board {board}: the windows are not in _CRS: {data.hex()}")


def main():
    with tempfile.TemporaryDirectory() as d:
        run(sys.argv[1], d)
        for board in (PC, Q35, MICROVM):
            dsdt, ssdt = f"{d}/{board}-DSDT.aml", f"{d}/{board}-SSDT.aml"
            for table, other in ((dsdt, ssdt), (ssdt, dsdt)):
                out = run("iasl", "-e", other, "-d", table)
                if "Error" in out:
                    sys.exit(out)
                run("iasl", "-oe", "-vs", "-p", f"{d}/again", table[:-3] + "dsl")
            mine = [(path, wanted) for which, path, wanted in EXPECTED if which == board]
            texts = evaluate([dsdt, ssdt], [path for path, wanted in mine])
            for (path, wanted), text in zip(mine, texts):
                if path.endswith("_CRS"):
                    check_windows(text, board)
                elif wanted not in text:
                    sys.exit(f"board {board}: {path} is not {wanted}:\n{text}")


main()
