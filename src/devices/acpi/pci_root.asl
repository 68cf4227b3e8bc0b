// pci_root.asl - resources of the PCI root; included inside its device. The windows are the
// board's: \HW3x below 4 GiB, \HW6x above (first and last byte), from the SSDT that tables.c makes.

    Name (CRES, ResourceTemplate ()
    {
        WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode,
            0x0000, 0x0000, 0x00FF, 0x0000, 0x0100)
        IO (Decode16, 0x0CF8, 0x0CF8, 0x01, 0x08)
        WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,
            0x0000, 0x0000, 0x0CF7, 0x0000, 0x0CF8)
        WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,
            0x0000, 0x0D00, 0xFFFF, 0x0000, 0xF300)
        DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, Cacheable, ReadWrite,
            0x00000000, 0x000A0000, 0x000BFFFF, 0x00000000, 0x00020000)
        DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,
            0x00000000, 0xE0000000, 0xFEBFFFFF, 0x00000000, 0x1EC00000, , , W32)
        QWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, Cacheable, ReadWrite,
            0x0000000000000000, 0x0000008000000000, 0x000000FFFFFFFFFF, 0x0000000000000000,
            0x0000008000000000, , , W64)
    })
    CreateDWordField (CRES, W32._MIN, M32B)
    CreateDWordField (CRES, W32._MAX, M32L)
    CreateDWordField (CRES, W32._LEN, M32S)
    CreateQWordField (CRES, W64._MIN, M64B)
    CreateQWordField (CRES, W64._MAX, M64L)
    CreateQWordField (CRES, W64._LEN, M64S)

    Method (_CRS, 0, Serialized)
    {
        M32B = \HW3B
        M32L = \HW3L
        M32S = (\HW3L - \HW3B) + 1
        M64B = \HW6B
        M64L = \HW6L
        M64S = (\HW6L - \HW6B) + 1
        Return (CRES)
    }
