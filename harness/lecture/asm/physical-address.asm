; physical-address: a number that is a physical address is not a way to reach it
;
; Physical 4 KiB holds the level 4 table. Virtual 4 KiB is a page like any other, and here it shows
; another frame, with a mark in it. Dereferencing CR3 gives the mark, not the table. Dereferencing the
; address that the table's entry 0 holds, the next table's, gives nothing at all: no page is there.
;
; [machine]
; ram = "4M"
; identity = 0
; map = [
;     { va = 0x001000, pa = 0x200000, size = "4K" },
;     { va = 0x100000, pa = 0x100000, size = "4K" },
;     { va = 0x300000, pa = 0x200000, size = "4K" },
; ]
;
; [out]
; rsi = "PML4"                # CR3: where the level 4 table is, physically
; rax = 0x4b52414d            # what lies at that virtual address: "MARK"
; rdi = 0x2000                # the level 3 table's physical address
; ending = "shutdown"
; events = ["#PF", "#DF"]

    mov rdi, 0x300000
    mov rax, 0x4b52414d
    mov [rdi], rax                  // the mark, through another page of the same frame
    mov rsi, cr3
    mov rax, [rsi]                  // "read the level 4 table"
    mov rdi, 0x2000
    mov rbx, [rdi]                  // "read the level 3 table": #PF, and there is no IDT
    hlt
