; three-faults: three exceptions in a row, each logged by the guest's own handlers
;
; Unicorn by itself loses every exception after the first. Here a read of a page that is not
; present, a write to a read-only page (CR0.WP is on) and an undefined instruction follow each
; other, and a handler writes vector, error code and CR2 of each to a log and steps over the
; instruction. Nothing may be lost and nothing may turn into a double fault.
;
; [machine]
; ram = "4M"
; map = [{ va = 0x800000, pa = 0x200000, size = "4K", flags = "" }]
;
; [out]
; events = ["#PF", "#PF", "#UD"]
; serial = "PF PF UD "
; r8 = 3
; exit = 1
;
; [out.memory]
; 0x300000 = 14
; 0x300008 = 0x0          # not present, read, supervisor
; 0x300010 = 0x900123
; 0x300018 = 14
; 0x300020 = 0x3          # present, write, supervisor
; 0x300028 = 0x800456
; 0x300030 = 6
; 0x300038 = 0x0          # #UD pushes no error code
; 0x300040 = 0x800456     # CR2 is as the last page fault left it

LOG = 0x300000

.include "include/selectors.inc"

    call install_tables
    lea rax, [rip + page_fault]
    mov ecx, 14
    call set_gate
    lea rax, [rip + undefined]
    mov ecx, 6
    call set_gate
    mov rbx, LOG
    xor r8, r8

    mov rsi, 0x900123
    lea r9, [rip + second]          // where the handler goes on
    mov rax, [rsi]
second:
    mov rsi, 0x800456
    lea r9, [rip + third]
    mov [rsi], rax
third:
    lea r9, [rip + done]
    ud2
done:
    xor eax, eax
    out 0xf4, al
    hlt

page_fault:
    pop r11                         // the error code
    mov r10d, 14
    mov r12d, 'P'
    jmp log
undefined:
    xor r11, r11
    mov r10d, 6
    mov r12d, 'U'
log:
    mov [rbx], r10
    mov [rbx + 8], r11
    mov rax, cr2
    mov [rbx + 16], rax
    add rbx, 24
    inc r8
    mov dx, 0x3f8
    mov eax, r12d
    out dx, al
    mov eax, 'F'
    cmp r12d, 'P'
    je say
    mov eax, 'D'
say:
    out dx, al
    mov eax, ' '
    out dx, al
    mov [rsp], r9                   // return behind the instruction
    iretq

.include "include/exceptions.inc"
