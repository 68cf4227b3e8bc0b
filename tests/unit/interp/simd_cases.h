/*
 * simd_cases.h - instructions for test_simd.c, in the assembler's own words. RBX points to the
 * memory operand, which is 64-byte aligned; R14, R15 and RSP are the harness's. Memory operands
 * are never written behind 64 bytes.
 */
#define SIMD_CASES(X)                                                                              \
    /* x87 */                                                                                      \
    X("fldl (%rbx)")                                                                               \
    X("flds (%rbx)")                                                                               \
    X("fldt (%rbx)")                                                                               \
    X("fildl (%rbx)")                                                                              \
    X("fildll (%rbx)")                                                                             \
    X("fbld (%rbx)")                                                                               \
    X("fadds (%rbx)")                                                                              \
    X("fmull (%rbx)")                                                                              \
    X("fidivs (%rbx)")                                                                             \
    X("fsts (%rbx)")                                                                               \
    X("fstpl 8(%rbx)")                                                                             \
    X("fstpt 3(%rbx)")                                                                             \
    X("fistps (%rbx)")                                                                             \
    X("fistpll (%rbx)")                                                                            \
    X("fisttpl (%rbx)")                                                                            \
    X("fbstp (%rbx)")                                                                              \
    X("fld1")                                                                                      \
    X("fldpi")                                                                                     \
    X("fadd %st(3), %st")                                                                          \
    X("fdivrp %st, %st(2)")                                                                        \
    X("fxch %st(5)")                                                                               \
    X("fcomi %st(1), %st")                                                                         \
    X("fucompp")                                                                                   \
    X("fcmovne %st(2), %st")                                                                       \
    X("fsqrt")                                                                                     \
    X("fsin")                                                                                      \
    X("f2xm1")                                                                                     \
    X("fprem")                                                                                     \
    X("fxtract")                                                                                   \
    X("frndint")                                                                                   \
    X("fincstp")                                                                                   \
    X("ffree %st(4)")                                                                              \
    X("fxam")                                                                                      \
    /* MMX */                                                                                      \
    X("paddb %mm1, %mm2")                                                                          \
    X("pmaddwd (%rbx), %mm3")                                                                      \
    X("movq %mm4, (%rbx)")                                                                         \
    X("movd %ecx, %mm5")                                                                           \
    X("movq %mm6, %r9")                                                                            \
    X("pshufb %mm1, %mm7")                                                                         \
    X("pmovmskb %mm3, %r10d")                                                                      \
    X("pinsrw $2, (%rbx), %mm1")                                                                   \
    X("cvtps2pi (%rbx), %mm1")                                                                     \
    X("cvtpi2ps %mm2, %xmm3")                                                                      \
    X("movdq2q %xmm5, %mm0")                                                                       \
    X("movq2dq %mm1, %xmm4")                                                                       \
    X("movntq %mm3, (%rbx)")                                                                       \
    X("emms")                                                                                      \
    /* SSE ... SSE4.2 */                                                                           \
    X("addps %xmm1, %xmm2")                                                                        \
    X("mulps (%rbx), %xmm9")                                                                       \
    X("divss 4(%rbx), %xmm3")                                                                      \
    X("sqrtps %xmm4, %xmm5")                                                                       \
    X("rcpps %xmm4, %xmm5")                                                                        \
    X("cmpltps (%rbx), %xmm5")                                                                     \
    X("comiss %xmm1, %xmm2")                                                                       \
    X("cvtsi2ss %r8, %xmm1")                                                                       \
    X("cvttss2si (%rbx), %rdx")                                                                    \
    X("movaps %xmm12, (%rbx)")                                                                     \
    X("movups 3(%rbx), %xmm1")                                                                     \
    X("movhps %xmm2, 5(%rbx)")                                                                     \
    X("movlps 8(%rbx), %xmm3")                                                                     \
    X("movss %xmm3, (%rbx)")                                                                       \
    X("movmskps %xmm8, %r11d")                                                                     \
    X("shufps $0x1b, (%rbx), %xmm6")                                                               \
    X("movntps %xmm1, 16(%rbx)")                                                                   \
    X("addpd (%rbx), %xmm2")                                                                       \
    X("cvtpd2ps (%rbx), %xmm7")                                                                    \
    X("cvtsd2si %xmm1, %rax")                                                                      \
    X("movdqu %xmm10, 1(%rbx)")                                                                    \
    X("movd %xmm1, %edx")                                                                          \
    X("movq %xmm1, (%rbx)")                                                                        \
    X("pmuludq 16(%rbx), %xmm1")                                                                   \
    X("psadbw %xmm1, %xmm15")                                                                      \
    X("pshufd $0x93, %xmm1, %xmm2")                                                                \
    X("pslldq $5, %xmm1")                                                                          \
    X("psrlw (%rbx), %xmm1")                                                                       \
    X("pextrw $3, %xmm1, %ecx")                                                                    \
    X("movnti %rcx, 8(%rbx)")                                                                      \
    X("addsubps %xmm1, %xmm2")                                                                     \
    X("haddpd (%rbx), %xmm2")                                                                      \
    X("lddqu 7(%rbx), %xmm3")                                                                      \
    X("movddup (%rbx), %xmm3")                                                                     \
    X("pshufb (%rbx), %xmm3")                                                                      \
    X("palignr $9, (%rbx), %xmm3")                                                                 \
    X("pabsw %xmm3, %xmm4")                                                                        \
    X("blendvps %xmm0, (%rbx), %xmm4")                                                             \
    X("pblendvb %xmm0, %xmm1, %xmm4")                                                              \
    X("dpps $0x71, (%rbx), %xmm2")                                                                 \
    X("roundsd $3, %xmm1, %xmm2")                                                                  \
    X("pmovsxbq (%rbx), %xmm2")                                                                    \
    X("pmovzxwd (%rbx), %xmm2")                                                                    \
    X("insertps $0x1d, 4(%rbx), %xmm2")                                                            \
    X("extractps $2, %xmm1, (%rbx)")                                                               \
    X("pextrb $13, %xmm1, 9(%rbx)")                                                                \
    X("pextrq $1, %xmm1, %rcx")                                                                    \
    X("pinsrd $1, %r8d, %xmm1")                                                                    \
    X("pinsrq $1, (%rbx), %xmm1")                                                                  \
    X("ptest (%rbx), %xmm1")                                                                       \
    X("mpsadbw $3, (%rbx), %xmm1")                                                                 \
    X("movntdqa (%rbx), %xmm1")                                                                    \
    X("pcmpestri $0x0c, 1(%rbx), %xmm1")                                                           \
    X("pcmpestrm $0x40, %xmm2, %xmm1")                                                             \
    X("pcmpistri $0x1a, %xmm2, %xmm1")                                                             \
    X("pcmpistrm $0x08, 1(%rbx), %xmm1")                                                           \
    X("pcmpgtq (%rbx), %xmm1")                                                                     \
    X("crc32b %ah, %ecx")                                                                          \
    X("crc32b %r9b, %ecx")                                                                         \
    X("crc32w (%rbx), %ecx")                                                                       \
    X("crc32w %dx, %eax")                                                                          \
    X("crc32l %edx, %eax")                                                                         \
    X("crc32q (%rbx), %r11")                                                                       \
    X("extrq $5, $9, %xmm1")                                                                       \
    X("insertq %xmm1, %xmm2")                                                                      \
    /* crypto */                                                                                   \
    X("aesenc (%rbx), %xmm1")                                                                      \
    X("aesdeclast %xmm2, %xmm1")                                                                   \
    X("aeskeygenassist $7, (%rbx), %xmm1")                                                         \
    X("pclmulqdq $0x11, (%rbx), %xmm1")                                                            \
    X("sha1rnds4 $2, (%rbx), %xmm1")                                                               \
    X("sha256rnds2 %xmm0, (%rbx), %xmm1")                                                          \
    X("sha256msg1 %xmm3, %xmm1")                                                                   \
    X("gf2p8mulb (%rbx), %xmm1")                                                                   \
    X("gf2p8affineqb $3, %xmm2, %xmm1")                                                            \
    /* general registers */                                                                        \
    X("andn %rcx, %rdx, %r8")                                                                      \
    X("andn (%rbx), %edx, %r8d")                                                                   \
    X("bextr %rcx, (%rbx), %rax")                                                                  \
    X("blsi %edx, %ecx")                                                                           \
    X("blsr (%rbx), %r9")                                                                          \
    X("bzhi %rcx, %rdx, %rax")                                                                     \
    X("mulx %rcx, %rax, %r8")                                                                      \
    X("mulx (%rbx), %rdx, %rax")                                                                   \
    X("mulxl %ecx, %edx, %edx")                                                                    \
    X("pdep %rcx, %rdx, %rax")                                                                     \
    X("pext (%rbx), %edx, %r12d")                                                                  \
    X("rorx $13, %r13, %rbp")                                                                      \
    X("sarx %rcx, (%rbx), %rsi")                                                                   \
    X("shlx %esi, %edi, %edi")                                                                     \
    X("adcx %rcx, %rdx")                                                                           \
    X("adox (%rbx), %esi")                                                                         \
    /* AVX, AVX2, FMA, F16C */                                                                     \
    X("vaddps %ymm1, %ymm2, %ymm3")                                                                \
    X("vaddps 5(%rbx), %xmm2, %xmm13")                                                             \
    X("vmovaps (%rbx), %ymm3")                                                                     \
    X("vmovaps %ymm3, 32(%rbx)")                                                                   \
    X("vmovups %ymm15, 1(%rbx)")                                                                   \
    X("vmovss %xmm1, %xmm2, %xmm3")                                                                \
    X("vmovd %ecx, %xmm3")                                                                         \
    X("vmovq (%rbx), %xmm3")                                                                       \
    X("vbroadcastsd (%rbx), %ymm4")                                                                \
    X("vbroadcastf128 (%rbx), %ymm4")                                                              \
    X("vextractf128 $1, %ymm1, 3(%rbx)")                                                           \
    X("vinsertf128 $1, 3(%rbx), %ymm2, %ymm1")                                                     \
    X("vperm2f128 $0x31, (%rbx), %ymm1, %ymm2")                                                    \
    X("vpermilps (%rbx), %ymm1, %ymm2")                                                            \
    X("vblendvpd %ymm3, (%rbx), %ymm1, %ymm2")                                                     \
    X("vtestps (%rbx), %ymm1")                                                                     \
    X("vmaskmovps (%rbx), %ymm1, %ymm2")                                                           \
    X("vmaskmovpd %ymm1, %ymm2, (%rbx)")                                                           \
    X("vpmaskmovd %xmm1, %xmm2, 4(%rbx)")                                                          \
    X("vpmaskmovq 8(%rbx), %ymm1, %ymm2")                                                          \
    X("vzeroupper")                                                                                \
    X("vzeroall")                                                                                  \
    X("vcvtsi2sd %r8, %xmm1, %xmm2")                                                               \
    X("vcvtdq2pd (%rbx), %ymm1")                                                                   \
    X("vpaddq (%rbx), %ymm1, %ymm2")                                                               \
    X("vpmovmskb %ymm1, %eax")                                                                     \
    X("vpsllvd (%rbx), %ymm1, %ymm2")                                                              \
    X("vpermq $0x6c, (%rbx), %ymm2")                                                               \
    X("vpbroadcastb (%rbx), %xmm2")                                                                \
    X("vpcmpestri $0x0c, %xmm2, %xmm1")                                                            \
    X("vfmadd231ps (%rbx), %ymm1, %ymm2")                                                          \
    X("vfnmsub132sd (%rbx), %xmm1, %xmm2")                                                         \
    X("vcvtph2ps (%rbx), %ymm2")                                                                   \
    X("vcvtps2ph $3, %ymm2, (%rbx)")                                                               \
    X("vaesenc (%rbx), %xmm2, %xmm3")                                                              \
    X("vpclmulqdq $1, (%rbx), %xmm2, %xmm3")                                                       \
    /* AVX-512 */                                                                                  \
    X("vaddps %zmm1, %zmm2, %zmm30")                                                               \
    X("vaddps (%rbx), %zmm2, %zmm30{%k1}")                                                         \
    X("vaddpd (%rbx){1to8}, %zmm17, %zmm3{%k2}{z}")                                                \
    X("vmulps {ru-sae}, %zmm1, %zmm2, %zmm3")                                                      \
    X("vmaxps {sae}, %zmm1, %zmm2, %zmm3{%k3}")                                                    \
    X("vaddps 16(%rbx), %xmm20, %xmm21{%k4}")                                                      \
    X("vmovdqu8 (%rbx), %zmm2{%k1}")                                                               \
    X("vmovdqu16 %zmm2, (%rbx){%k1}")                                                              \
    X("vmovaps %zmm2, (%rbx){%k5}")                                                                \
    X("vmovdqa64 (%rbx), %ymm22{%k5}{z}")                                                          \
    X("vmovss (%rbx), %xmm2{%k1}{z}")                                                              \
    X("vmovsd %xmm2, (%rbx){%k1}")                                                                 \
    X("vpbroadcastq (%rbx), %zmm2{%k6}")                                                           \
    X("vpbroadcastd %ecx, %zmm2{%k6}")                                                             \
    X("vbroadcasti32x4 (%rbx), %zmm2{%k6}")                                                        \
    X("vpternlogd $0x96, (%rbx), %zmm3, %zmm4{%k7}")                                               \
    X("vpcmpub $2, (%rbx), %zmm3, %k3{%k2}")                                                       \
    X("vcmppd $4, (%rbx){1to4}, %ymm3, %k3{%k2}")                                                  \
    X("vptestmd (%rbx), %zmm3, %k4")                                                               \
    X("vfpclasspd $0x1f, %zmm3, %k4")                                                              \
    X("vpcompressd %zmm3, (%rbx){%k1}")                                                            \
    X("vpcompressb %zmm3, (%rbx){%k1}")                                                            \
    X("vpexpandd (%rbx), %zmm3{%k1}")                                                              \
    X("vpexpandw (%rbx), %zmm3{%k1}{z}")                                                           \
    X("vpmovqb %zmm3, (%rbx){%k1}")                                                                \
    X("vpmovusdw %zmm3, (%rbx){%k1}")                                                              \
    X("vpmovsxbd (%rbx), %zmm3{%k1}")                                                              \
    X("vcvtps2pd (%rbx), %zmm3{%k1}")                                                              \
    X("vcvtpd2ps (%rbx){1to8}, %ymm3{%k1}")                                                        \
    X("vcvttpd2uqq (%rbx), %zmm3{%k1}")                                                            \
    X("vcvtps2ph $0, %zmm3, (%rbx){%k1}")                                                          \
    X("vcvtph2ps (%rbx), %zmm3{%k1}")                                                              \
    X("vcvtusi2sd %r9, %xmm3, %xmm4")                                                              \
    X("vcvttsd2usi (%rbx), %rcx")                                                                  \
    X("vpermb (%rbx), %zmm3, %zmm4{%k1}")                                                          \
    X("vpermt2d (%rbx), %zmm3, %zmm4")                                                             \
    X("vpshufb (%rbx), %zmm3, %zmm4{%k1}")                                                         \
    X("valignq $3, (%rbx), %zmm3, %zmm4{%k1}")                                                     \
    X("vpconflictd (%rbx), %zmm4{%k1}")                                                            \
    X("vplzcntq (%rbx){1to8}, %zmm4{%k1}")                                                         \
    X("vpopcntb (%rbx), %zmm4{%k1}")                                                               \
    X("vpdpbusd (%rbx), %zmm3, %zmm4{%k1}")                                                        \
    X("vdpbf16ps (%rbx), %zmm3, %zmm4{%k1}")                                                       \
    X("vpmadd52luq (%rbx), %zmm3, %zmm4{%k1}")                                                     \
    X("vpshldvd (%rbx), %zmm3, %zmm4{%k1}")                                                        \
    X("vgf2p8affineqb $1, (%rbx){1to8}, %zmm3, %zmm4{%k1}")                                        \
    X("vaesdec (%rbx), %zmm3, %zmm4")                                                              \
    X("vpclmulqdq $0x10, (%rbx), %zmm3, %zmm4")                                                    \
    X("vrndscaleps $0x31, (%rbx), %zmm3{%k1}")                                                     \
    X("vfixupimmpd $5, (%rbx), %zmm3, %zmm4{%k1}")                                                 \
    X("vrangess $2, (%rbx), %xmm3, %xmm4{%k1}")                                                    \
    X("vgetmantps $2, (%rbx), %zmm4{%k1}")                                                         \
    X("vscalefsd %xmm1, %xmm3, %xmm4{%k1}{z}")                                                     \
    X("vinserti64x4 $1, (%rbx), %zmm3, %zmm4{%k1}")                                                \
    X("vextractf32x4 $3, %zmm3, (%rbx){%k1}")                                                      \
    X("vpinsrb $4, %ecx, %xmm20, %xmm21")                                                          \
    X("vmovntdq %zmm4, (%rbx)")                                                                    \
    X("kandw %k1, %k2, %k3")                                                                       \
    X("kshiftlq $7, %k1, %k3")                                                                     \
    X("kmovb (%rbx), %k3")                                                                         \
    X("kmovq %k3, (%rbx)")                                                                         \
    X("kmovd %ecx, %k3")                                                                           \
    X("kmovq %k3, %r8")                                                                            \
    X("kortestd %k1, %k2")                                                                         \
    X("ktestq %k1, %k2")                                                                           \
    X("kunpckdq %k1, %k2, %k3")                                                                    \
    X("vpmovm2b %k3, %zmm3")                                                                       \
    X("vpmovd2m %zmm3, %k3")                                                                       \
    X("vpbroadcastmb2q %k3, %zmm3")                                                                \
    /* gathers and scatters: see the harness for what the indices are */                           \
    X("vpgatherdd %xmm3, (%rbx,%xmm11), %xmm4")                                                    \
    X("vpgatherdd %ymm3, (%rbx,%ymm11,4), %ymm4")                                                  \
    X("vgatherdpd %ymm3, (%rbx,%xmm11,4), %ymm4")                                                  \
    X("vgatherqps %xmm3, (%rbx,%ymm11,2), %xmm4")                                                  \
    X("vgatherqps %xmm3, (%rbx,%xmm11,2), %xmm4")                                                  \
    X("vpgatherqq %ymm3, 4(%rbx,%ymm11,2), %ymm4")                                                 \
    X("vpgatherdd 8(%rbx,%zmm11,4), %zmm4{%k1}")                                                   \
    X("vgatherqps (%rbx,%zmm11,4), %ymm4{%k1}")                                                    \
    X("vpgatherdq (%rbx,%ymm11,4), %zmm24{%k2}")                                                   \
    X("vpscatterdd %zmm4, (%rbx,%zmm11,4){%k1}")                                                   \
    X("vscatterqpd %zmm4, (%rbx,%zmm11,4){%k2}")                                                   \
    X("vscatterqps %ymm4, (%rbx,%zmm11,4){%k2}")
