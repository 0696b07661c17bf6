"""Parquet: rows from batch to batch, by pyarrow, which the extra ``parquet`` brings."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from flexihash.consumer.consumer_errors import FileUnreadable
from flexihash.consumer.formats.cells import write_template
from flexihash.consumer.formats.packing import Unpacked
from flexihash.consumer.formats.reader import Portion

BATCH_ROWS = 2_000
UTC = "+00:00"  # by this name no database of zones is asked
MICROSECOND_S = 1e-6


class ParquetReader:
    """Positions count rows. A batch of them is in memory, and what pyarrow holds of their row group.

    Where the file is packed as a whole, or comes from standard input, it is unpacked to the disk first.

    Raises:
        FileUnreadable: pyarrow is not installed, or the file is no Parquet.
    """

    unit = "row"

    def __init__(self, file: Unpacked) -> None:
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError as error:
            message = f"{file.path} is Parquet, which takes pyarrow: pip install 'flexihash[parquet]'"
            raise FileUnreadable(message) from error
        self._arrow: Any = pyarrow
        self._unpacked = file
        try:
            self._file = parquet.ParquetFile(file.spool())
        except pyarrow.ArrowException as error:
            raise FileUnreadable(f"{file.path} is no whole Parquet file: {error}") from error
        self._n_rows: int = self._file.metadata.num_rows
        self.position = 0
        schema, types = self._file.schema_arrow, pyarrow.types
        self.columns: Sequence[str] | None = tuple(schema.names)
        self.objects: Collection[str] = {
            one.name for one in schema if types.is_struct(one.type) or types.is_map(one.type)
        }
        self._template = write_template(file.path, schema.names)
        self._encode = msgspec.json.Encoder(decimal_format="number").encode
        self._batches: Iterator[Any] | None = None
        self._values: list[bytes] = []  # read, and not asked for yet

    @property
    def size_bytes(self) -> int:
        """See `Reader`."""
        return self._unpacked.size_bytes

    @property
    def done_bytes(self) -> int:
        """See `Reader`. Rows are taken for equally long."""
        return self.size_bytes * self.position // max(1, self._n_rows)

    def seek(self, position: int) -> bool:
        """See `Reader`."""
        self.position = position
        return position <= self._n_rows

    def read(self, n_records: int) -> Portion:
        """See `Reader`."""
        self._values = self._values or self._write_batch()
        values, self._values = self._values[:n_records], self._values[n_records:]
        begin, self.position = self.position, self.position + len(values)
        return Portion(list(range(begin, self.position)), values, {})

    def place(self, offset: int) -> str:
        """See `Reader`."""
        return f"row {offset + 1}"

    def close(self) -> None:
        """See `Reader`."""
        self._file.close()
        self._unpacked.close()

    def _write_batch(self) -> list[bytes]:
        """The JSON of the rows from the position on that were read together; none at the end."""
        self._batches = self._batches or self._read_batches()
        try:
            batch = next(self._batches, None)
            columns = [] if batch is None else [self._write_column(column) for column in batch.columns]
        except (self._arrow.ArrowException, ValueError, OverflowError) as error:
            raise FileUnreadable(f"cannot read {self._unpacked.path} after row {self.position}: {error}") from error
        return [self._template % row for row in zip(*columns, strict=True)]

    def _read_batches(self) -> Iterator[Any]:
        """Batches of rows, from the position on; row groups before it are not read."""
        metadata, group, n_left = self._file.metadata, 0, self.position
        while group < metadata.num_row_groups and n_left >= metadata.row_group(group).num_rows:
            n_left -= metadata.row_group(group).num_rows
            group += 1
        groups = range(group, metadata.num_row_groups)
        for batch in self._file.iter_batches(BATCH_ROWS, row_groups=groups) if groups else ():
            if n_left < len(batch):
                yield batch.slice(n_left)
            n_left = max(0, n_left - len(batch))

    def _write_column(self, column: Any) -> Iterable[bytes]:
        """Each cell as JSON; equal ones are written once, where pyarrow can compare them."""
        column = self._simplify(column)
        try:
            distinct = column.dictionary_encode()
        except self._arrow.ArrowNotImplementedError:  # objects and lists
            is_map = self._arrow.types.is_map(column.type)
            return [self._encode(dict(cell) if is_map and cell is not None else cell) for cell in column.to_pylist()]
        cells = [*map(self._encode, distinct.dictionary.to_pylist()), b"null"]
        return map(cells.__getitem__, distinct.indices.fill_null(len(cells) - 1).to_pylist())

    def _simplify(self, column: Any) -> Any:
        """The column in types that have JSON: times are in UTC, to the microsecond, and durations are seconds."""
        simple = simplify_type(self._arrow, column.type)
        column = column if simple == column.type else column.cast(simple, safe=False)
        if not self._arrow.types.is_duration(column.type):
            return column
        from pyarrow import compute

        return compute.multiply(column.cast("int64").cast("float64", safe=False), MICROSECOND_S)


def simplify_type(arrow: Any, type: Any) -> Any:
    """A type of pyarrow whose values Python has, whatever else is installed; also of what lies in lists and objects."""
    types = arrow.types
    if types.is_dictionary(type):
        return simplify_type(arrow, type.value_type)
    if types.is_timestamp(type):
        return arrow.timestamp("us", UTC if type.tz else None)
    if types.is_duration(type):
        return arrow.duration("us")
    if types.is_time64(type):
        return arrow.time64("us")
    if types.is_struct(type):
        return arrow.struct([_simplify_field(arrow, type.field(index)) for index in range(type.num_fields)])
    if types.is_list(type) or types.is_large_list(type):
        make = arrow.list_ if types.is_list(type) else arrow.large_list
        return make(_simplify_field(arrow, type.value_field))
    return type


def _simplify_field(arrow: Any, field: Any) -> Any:
    return field.with_type(simplify_type(arrow, field.type))
