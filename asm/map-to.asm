; map-to: make tables, map a page, use it, take its rights away, unmap it
;
; A list of operations is carried out one by one: `map_to`, `unmap` and `update_flags` of the crate,
; through the full physical map, with frames for new tables from a bump allocator; and reads and
; writes of the pages, whose faults the kernel's own #PF handler catches. The list in this file
; tells the lecture's story, with the mistakes that one makes: each line says what comes out.
;
; In:  RDI = the operations, four words each: what, page, and two more. RSI = array for the results,
;      RDX = how many. RCX = the physical map's offset. R8 = the first free frame, R9 = the end of
;      the free frames.
; Out: one result for each operation. Of the first three kinds 0, or the number of the crate's error
;      (include/map-to.inc); of a READ the value, of a WRITE 0; of either, when it faults,
;      0xffffffff_00000000 and the error code, plus 0x1000 if CR2 was not the page. R8 = the next
;      free frame.
;
; It proves that the CPU follows what the kernel wrote: the same access faults, works, works in part
; (CR0.WP is on: a write to a read-only page faults in the kernel too), and faults again.
;
; [machine]
; ram = "16M"
; identity = "0"
; map = [
;     { va = 0x07f000, pa = 0x07f000, size = "4K" },                    # the stack
;     { va = 0x100000, pa = 0x100000, size = "64K" },                   # this code and its data
;     { va = 0x18000000000, pa = 0, size = "16M", page = "2M" },
; ]
;
; [in]
; rdi = "operations"
; rsi = "results"
; rdx = 19
; rcx = 0x18000000000
; r8 = 0x300000
; r9 = 0x303000
;
; [out]
; r8 = 0x303000               # a level 3, a level 2 and a level 1 table were made
; events = ["#PF", "#PF", "#PF", "#PF", "#PF"]
; exit = 1
;
; [out.memory]
; 0x108000 = 0xffffffff00000000  # read: not present
; 0x108008 = 0                   # write to the frame of the level 1 table to be, a would-be entry
; 0x108010 = 0                   # map_to
; 0x108018 = 0xffffffff00000000  # read the page behind: the new table was cleared
; 0x108020 = 0                   # write
; 0x108028 = 0x1234              # read
; 0x108030 = 1                   # map_to again: PAGE_ALREADY_MAPPED
; 0x108038 = 2                   # map_to into a huge page: PARENT_ENTRY_HUGE_PAGE
; 0x108040 = 3                   # map_to elsewhere: FRAME_ALLOCATION_FAILED
; 0x108048 = 0                   # update_flags, read-only
; 0x108050 = 0x1234              # read
; 0x108058 = 0xffffffff00000003  # write: present, write
; 0x108060 = 0                   # unmap
; 0x108068 = 0xffffffff00000000  # read: not present
; 0x108070 = 0xffffffff00000002  # write: not present
; 0x108078 = 4                   # unmap again: PAGE_NOT_MAPPED
; 0x108080 = 4                   # update_flags: PAGE_NOT_MAPPED
; 0x108088 = 0                   # map_to another frame, and no new table
; 0x108090 = 0x5678              # read: what that frame holds
; 0x200000 = 0x1234              # what was written, in its frame
; 0x1440 = 0x300023              # the tables that were made: level 4, index 136,
; 0x300888 = 0x301023            # level 3, index 273,
; 0x301110 = 0x302023            # level 2, index 34,
; 0x302220 = 0x10a021            # level 1, index 68: the frame of the second map_to

MAP_TO       = 1
UNMAP        = 2
UPDATE_FLAGS = 3
WRITE        = 4
READ         = 5

PAGE  = 0x444444444000
MAP   = 0x18000000000                   // physical memory, in huge pages
FRAME = 0x200000
OTHER_FRAME = 0x10a000

.include "include/flags.inc"
.include "include/selectors.inc"

    mov r15, rcx
    mov r12, rdi                        // operations
    mov r13, rsi                        // results
    mov rbp, rdx                        // how many
    lea rdi, [rip + next_frame]
    mov [rdi], r8
    lea rdi, [rip + end_of_frames]
    mov [rdi], r9
    call install_tables
    lea rax, [rip + page_fault]
    mov ecx, 14
    call set_gate

next:
    mov rax, [r12]
    mov rdi, [r12 + 8]
    mov rsi, [r12 + 16]
    mov rdx, [r12 + 24]
    cmp eax, MAP_TO
    je do_map_to
    cmp eax, UNMAP
    je do_unmap
    cmp eax, UPDATE_FLAGS
    je do_update_flags
    cmp eax, WRITE
    je do_write
    mov rax, [rdi]                      // READ
    jmp done
do_write:
    mov [rdi], rsi
    xor eax, eax
    jmp done
do_map_to:
    call map_to
    jmp done
do_unmap:
    call unmap
    jmp done
do_update_flags:
    call update_flags
done:
    mov [r13], rax
    add r12, 32
    add r13, 8
    dec rbp
    jnz next
    mov r8, [rip + next_frame]
    xor eax, eax
    out 0xf4, al
    hlt

page_fault:                             // go on at `done`, with the error code in the result
    pop rax
    mov rdx, cr2
    cmp rdx, rdi
    je as_expected
    or eax, 0x1000
as_expected:
    mov rdx, 0xffffffff00000000
    or rax, rdx
    lea rdx, [rip + done]
    mov [rsp], rdx
    iretq

allocate_frame:                         // as simple as an allocator can be: it never frees
    mov rax, [rip + next_frame]
    cmp rax, [rip + end_of_frames]
    je no_frame
    add qword ptr [rip + next_frame], 4096
    ret
no_frame:
    xor eax, eax
    ret

show_table:                             // all of memory is mapped already
    ret

.include "include/map-to.inc"
.include "include/exceptions.inc"

next_frame:
    .quad 0
end_of_frames:
    .quad 0

.org 0x108000
results:
    .zero 8 * 64
.org 0x109000
operations:
    .quad READ, PAGE, 0, 0
    .quad WRITE, MAP + 0x302228, 0x200003, 0
    .quad MAP_TO, PAGE, FRAME, PRESENT | WRITABLE
    .quad READ, PAGE + 0x1000, 0, 0
    .quad WRITE, PAGE, 0x1234, 0
    .quad READ, PAGE, 0, 0
    .quad MAP_TO, PAGE, FRAME, PRESENT
    .quad MAP_TO, MAP, FRAME, PRESENT
    .quad MAP_TO, 0x2_0000_0000, FRAME, PRESENT
    .quad UPDATE_FLAGS, PAGE, 0, PRESENT
    .quad READ, PAGE, 0, 0
    .quad WRITE, PAGE, 0x9999, 0
    .quad UNMAP, PAGE, 0, 0
    .quad READ, PAGE, 0, 0
    .quad WRITE, PAGE, 0x9999, 0
    .quad UNMAP, PAGE, 0, 0
    .quad UPDATE_FLAGS, PAGE, 0, PRESENT
    .quad MAP_TO, PAGE, OTHER_FRAME, PRESENT
    .quad READ, PAGE, 0, 0
.org OTHER_FRAME
    .quad 0x5678
