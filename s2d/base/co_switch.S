/* co_switch(from, to): saves the callee-saved state of the running stack, continues the other one. No system call, no
 * signal mask. System V ABI for x86-64, AAPCS64 for arm64. */
#if defined(__x86_64__)
    .text
    .globl co_switch
    .type co_switch, @function
    .p2align 4
co_switch: /* rdi: where to save our stack pointer; rsi: the stack pointer to continue */
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    subq $8, %rsp
    stmxcsr (%rsp)
    fnstcw 4(%rsp)
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    ldmxcsr (%rsp)
    fldcw 4(%rsp)
    addq $8, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size co_switch, .-co_switch
#elif defined(__aarch64__)
    .text
    .globl co_switch
    .type co_switch, %function
    .p2align 4
co_switch: /* x0: where to save our stack pointer; x1: the stack pointer to continue */
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size co_switch, .-co_switch
#else
#error "co_switch.S knows x86-64 and arm64"
#endif
    .section .note.GNU-stack, "", %progbits
