"""The CSV columns: each field decoded, each malformed line named."""

from __future__ import annotations

import csv
import doctest
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import SnapshotError
from harness.snapshot import FLAG_BITS, KINDS, SIZES, SOURCES, Truth, TruthRow, Unmapped, columns

HEADER = "va,pa,size,flags,source\n"


def test_the_examples() -> None:
    result = doctest.testmod(columns)
    assert (result.attempted, result.failed) == (4, 0)


def truth(*lines: str) -> Truth:
    return Truth.parse((HEADER + "\n".join(lines)).encode(), "truth.csv")


def test_a_row_reads_as_it_is_written() -> None:
    rows = truth(
        "ffffffff81000000,1000000,2M,XGPDACTUW,gva2gpa", "0,fffffffffffff,1G,---------,info tlb"
    )

    assert rows[0] == TruthRow(0xFFFF_FFFF_8100_0000, 0x100_0000, "2M", "XGPDACTUW", "gva2gpa")
    assert rows[1] == TruthRow(0, 0xF_FFFF_FFFF_FFFF, "1G", "---------", "info tlb")
    assert rows[-1] == rows[1]
    assert rows.level.tolist() == [2, 3]
    assert rows.page_size.tolist() == [1 << 21, 1 << 30]
    assert rows.is_leaf.tolist() == [False, True]


def test_flags_lie_where_the_entry_has_them() -> None:
    # SDM volume 3A, table 4-20: XD 63, G 8, PS or PAT 7, D 6, A 5, PCD 4, PWT 3, U/S 2, R/W 1.
    rows = truth(
        *(
            f"0,0,4K,{''.join(x if x == letter else '-' for x in FLAG_BITS)},info tlb"
            for letter in "XGPDACTUW"
        )
    )

    assert rows.flags.tolist() == [1 << bit for bit in (63, 8, 7, 6, 5, 4, 3, 2, 1)]
    assert Truth.FLAG_MASK == 0x8000_0000_0000_01FE


def test_the_last_newline_may_be_missing_and_rows_too() -> None:
    assert len(truth("0,0,4K,---------,info tlb\n")) == 1
    assert len(truth()) == 0
    assert len(Truth.parse(HEADER.strip().encode(), "truth.csv")) == 0


def test_unmapped_addresses_need_not_be_canonical() -> None:
    rows = Unmapped.parse(b"va,kind\n0001000000000000,noncanonical\n1,gap\n", "unmapped.csv")

    assert rows.va.tolist() == [1 << 48, 1]
    assert [row.kind for row in rows] == ["noncanonical", "gap"]


@given(
    st.lists(
        st.tuples(
            st.integers(0, (1 << 64) - 1),
            st.integers(0, (1 << 52) - 1),
            st.sampled_from(SIZES),
            st.sets(st.sampled_from(list(FLAG_BITS))),
            st.sampled_from(SOURCES),
        )
    )
)
def test_columns_agree_with_the_csv_module(
    rows: list[tuple[int, int, str, set[str], str]],
) -> None:
    text = HEADER + "".join(
        f"{va:x},{pa:x},{size},{''.join(x if x in flags else '-' for x in FLAG_BITS)},{source}\n"
        for va, pa, size, flags, source in rows
    )

    ours = Truth.parse(text.encode(), "truth.csv")

    theirs = list(csv.reader(io.StringIO(text)))[1:]
    assert [[f"{row.va:x}", f"{row.pa:x}", *row[2:]] for row in ours] == theirs


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("0,0,4K,---------", "there must be 5 fields, not '0,0,4K,---------'"),
        ("0,0,4K,---------,info tlb,", "there must be 5 fields, not '0,0,4K,---------,info tlb,'"),
        ("", "there must be 5 fields, not ''"),
        (",0,4K,---------,info tlb", "va must be 1 to 16 hexadecimal digits, not ''"),
        ("0x1,0,4K,---------,info tlb", "va must be 1 to 16 hexadecimal digits, not '0x1'"),
        ("-1,0,4K,---------,info tlb", "va must be 1 to 16 hexadecimal digits, not '-1'"),
        (
            "00000000000000000,0,4K,---------,info tlb",
            "va must be 1 to 16 hexadecimal digits, not '00000000000000000'",
        ),
        ("0,g,4K,---------,info tlb", "pa must be 1 to 16 hexadecimal digits, not 'g'"),
        (
            "0,10000000000000,4K,---------,info tlb",
            "pa must be below 0x10000000000000, not '10000000000000'",
        ),
        ("0,0,4k,---------,info tlb", "size must be 4K or 2M or 1G, not '4k'"),
        (
            "0,0,4K,--------,info tlb",
            "flags must be XGPDACTUW with '-' for each letter that is clear, not '--------'",
        ),
        (
            "0,0,4K,-X-------,info tlb",
            "flags must be XGPDACTUW with '-' for each letter that is clear, not '-X-------'",
        ),
        ("0,0,4K,---------,info", "source must be info tlb or gva2gpa, not 'info'"),
        ("0,0,4K,---------,info tlb\r", "source must be info tlb or gva2gpa, not 'info tlb\\r'"),
        (
            "0,0,4K,---------," + "é" * 30,
            "source must be info tlb or gva2gpa, not 'Ã©Ã©Ã©Ã©Ã©Ã©Ã©Ã©Ã©Ã©Ã©Ã©Ã©Ã©Ã©Ã©Ã©Ã©Ã©Ã©'...",
        ),
    ],
)
def test_a_malformed_line_is_named(line: str, sentence: str) -> None:
    good = "0,0,4K,---------,info tlb"

    with pytest.raises(SnapshotError) as caught:
        truth(good, line, good, line, "")

    assert str(caught.value) == f"truth.csv: line 3: {sentence}"
    assert caught.value.path == "truth.csv"


@pytest.mark.parametrize(
    "text", [b"", b"va,kin\n", b"va,kind,x\n", b"\xff\xfe", b"va,kind\r\n1,gap\r\n"]
)
def test_the_header_must_be_there(text: bytes) -> None:
    with pytest.raises(SnapshotError, match=r"^u\.csv: line 1 must be 'va,kind', not "):
        Unmapped.parse(text, "u.csv")


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(SnapshotError) as caught:
        Unmapped.parse(b"va,kind\n0,edgy\n", "u.csv")
    assert str(caught.value) == f"u.csv: line 2: kind must be {' or '.join(KINDS)}, not 'edgy'"


def test_columns_are_arrays_of_the_promised_types() -> None:
    rows = truth("0,0,4K,---------,info tlb")

    assert [column.dtype for column in (rows.va, rows.pa, rows.flags)] == [np.uint64] * 3
    assert [column.dtype for column in (rows.level, rows.source)] == [np.uint8] * 2
