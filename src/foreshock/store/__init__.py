"""Runs on disk: one folder, one SQLite file, one writer; rsync-able, readable without torch."""

from __future__ import annotations

from foreshock.store.errors import ClosedError as ClosedError
from foreshock.store.errors import DamagedError as DamagedError
from foreshock.store.errors import FolderNotWritableError as FolderNotWritableError
from foreshock.store.errors import ForkedError as ForkedError
from foreshock.store.errors import LockedError as LockedError
from foreshock.store.errors import NewerSchemaError as NewerSchemaError
from foreshock.store.errors import NotARunError as NotARunError
from foreshock.store.errors import ReadOnlyError as ReadOnlyError
from foreshock.store.errors import RunExistsError as RunExistsError
from foreshock.store.errors import StoreError as StoreError
from foreshock.store.errors import UnknownSeriesError as UnknownSeriesError
from foreshock.store.errors import WriteError as WriteError
from foreshock.store.listing import doctor as doctor
from foreshock.store.listing import list_runs as list_runs
from foreshock.store.pictures import Comparison as Comparison
from foreshock.store.pictures import Curve as Curve
from foreshock.store.pictures import Field as Field
from foreshock.store.pictures import Figure as Figure
from foreshock.store.pictures import comparisons as comparisons
from foreshock.store.pictures import figures as figures
from foreshock.store.pictures import record as record
from foreshock.store.records import Check as Check
from foreshock.store.records import Counts as Counts
from foreshock.store.records import Event as Event
from foreshock.store.records import Rollup as Rollup
from foreshock.store.records import RunSummary as RunSummary
from foreshock.store.records import Series as Series
from foreshock.store.records import SeriesRecord as SeriesRecord
from foreshock.store.run import Run as Run
