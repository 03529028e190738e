# SPDX-License-Identifier: Apache-2.0
"""Make a bag whole again after a kill, a power cut, a full disk or damage: every whole chunk is kept.

Files that are finished and fit their checksums are not touched, nor is a metadata.yaml that tells the truth. A
damaged file is written anew beside the old one, which stays as FILE.damaged.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from mcap.records import Attachment, Metadata
from mcap.writer import CompressionType, Writer

from h2o_control import bag_lock
from h2o_control.bag_copy import bag_information
from h2o_control.bag_loss import REPAIR_RECORD, Loss, earlier_loss, loss
from h2o_control.bag_metadata import write_metadata
from h2o_control.bag_scan import McapScan
from h2o_control.bag_source import Progress, StoredBag, StoredEpisode, silent, topic_of
from h2o_control.errors import DataError
from h2o_control.provenance import now_utc, software

#: Appended to the name of a file that was repaired.
KEPT = ".damaged"
_TEMPORARY = ".repair.tmp"
#: What the recorder would have said in the end.
END_REASON = "its recorder ended without finishing it"


@dataclass(frozen=True)
class RepairedFile:
    """What was done to one file.

    Attributes:
        messages: kept.
        loss: what was not; empty where only the index was gone.
        reasons: what was wrong.
        note: what became of it, where it was not written anew.
    """

    name: str
    messages: int
    loss: Loss
    reasons: tuple[str, ...]
    note: str = ""

    def __str__(self) -> str:
        """One line for the operator."""
        why = self.note or "; ".join(self.reasons)
        return f"{self.name}: {self.messages} messages kept; lost {self.loss}; {why}"


@dataclass
class RepairReport:
    """What `repair` did.

    Attributes:
        files: repaired.
        healthy: names of files that were not touched.
        metadata: why metadata.yaml was written anew, "" where it was not.
        kept: originals that are there still.
        deleted: originals that are not any more.
    """

    files: list[RepairedFile] = field(default_factory=list)
    healthy: list[str] = field(default_factory=list)
    metadata: str = ""
    kept: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)


def repair(path: str | Path, delete_damaged: bool = False, progress: Progress = silent) -> RepairReport:
    """Repair a bag, or one .mcap file, in place.

    Args:
        path: rosbag2 folder with MCAP files, with or without metadata.yaml, or one file.
        delete_damaged: remove the originals of repaired files, also those of earlier repairs.
        progress: called with the name of each file before it is read.

    Raises:
        DataError: not a bag of MCAP files, still being written, not one chunk whole in a file, or the disk refuses;
            every file is then as it was, or repaired.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        raise DataError(f"no such bag: {path}")
    if bag_lock.is_held(folder):
        raise DataError(
            f"{path} is being written by a running recorder; stop it first, then there may be nothing to do"
        )
    lock = bag_lock.hold(folder)
    try:
        return _repair(path, folder, delete_damaged, progress)
    except OSError as error:
        raise DataError(f"cannot repair {path}: {error.strerror or error}; nothing was lost") from error
    finally:
        os.close(lock)


def _repair(path: Path, folder: Path, delete_damaged: bool, progress: Progress) -> RepairReport:
    report = RepairReport()
    _take_back(folder)
    old, problem = _read_metadata(folder) if path.is_dir() else ({}, "")
    files = _files(folder, old) if path.is_dir() else [path]
    episodes, repaired, nothing_in = [], {}, []
    # Of a file alone too, the folder's metadata.yaml may know what it held.
    known = old if path.is_dir() else _read_metadata(folder)[0]
    bag = StoredBag(folder, [], known, _custom(known))
    for file in files:
        progress(file.name)
        scan = McapScan(file)
        episode = _look(scan)
        wrong = list(_reasons(scan))
        if not scan.is_mcap:
            nothing_in.append(file)
            report.files.append(_describe(bag, episode, wrong, "nothing in it is whole: set aside"))
            continue
        if wrong:
            _refuse_if_written(file)
            done = _describe(bag, episode, wrong)
            episode = _rewrite(scan, done)
            repaired[file.name] = done
            report.files.append(done)
        else:
            report.healthy.append(file.name)
        episodes.append(episode)
    if nothing_in and not episodes:
        names = ", ".join(file.name for file in nothing_in)
        raise DataError(f"{path}: {names} is not an MCAP file, or nothing in it is whole; it was left as it is")
    for file in nothing_in:
        # Readers would stumble over it, and metadata.yaml cannot list it.
        _refuse_if_written(file)
        os.replace(file, _spare(file))
    if path.is_dir():
        information = _information(StoredBag(folder, episodes, old, _custom(old)), repaired)
        report.metadata = problem or _what_is_stale(old, information)
        if report.metadata:
            if problem and (folder / "metadata.yaml").exists():
                os.replace(folder / "metadata.yaml", _spare(folder / "metadata.yaml"))
            write_metadata(folder, information)
    for kept in sorted(folder.glob(f"*{KEPT}*") if path.is_dir() else folder.glob(f"{path.name}{KEPT}*")):
        if delete_damaged:
            kept.unlink()
        (report.deleted if delete_damaged else report.kept).append(kept.name)
    return report


def _take_back(folder: Path) -> None:
    """Undo a repair that was stopped between moving the original away and putting the new file there."""
    for temporary in folder.glob(f".*{_TEMPORARY}"):
        original = folder / temporary.name.removeprefix(".").removesuffix(_TEMPORARY)
        kept = sorted(folder.glob(f"{original.name}{KEPT}*"), key=lambda f: f.stat().st_ctime_ns)
        if kept and not original.exists():
            kept[-1].rename(original)
        temporary.unlink()


def _read_metadata(folder: Path) -> tuple[dict[str, Any], str]:
    try:
        information = yaml.safe_load((folder / "metadata.yaml").read_text("utf-8"))["rosbag2_bagfile_information"]
        storage, names = information["storage_identifier"], [str(n) for n in information["relative_file_paths"]]
    except FileNotFoundError:
        return {}, "it was missing"
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
        return {}, "it was no rosbag2 metadata"
    if storage != "mcap":
        raise DataError(
            f"{folder} is stored as {storage!r}, repair knows mcap; sqlite3 recovers by itself when a file is opened, "
            "and `ros2 bag reindex` makes a lost metadata.yaml anew"
        )
    gone = [name for name in names if not (folder / Path(name).name).is_file()]
    return information, f"it lists {', '.join(gone)}, which is gone" if gone else ""


def _files(folder: Path, old: dict[str, Any]) -> list[Path]:
    listed = [folder / Path(name).name for name in old.get("relative_file_paths", [])]
    found = set(folder.glob("*.mcap"))
    files = [f for f in listed if f in found]

    def order(file: Path) -> tuple[int, str]:
        number = file.stem.rpartition("_")[2]
        return (int(number) if number.isdigit() else -1, file.name)

    files += sorted(found - set(listed), key=order)
    if not files and listed:
        names = ", ".join(file.name for file in listed)
        raise DataError(
            f"bag {folder} lacks {names}, which its metadata.yaml lists, and there is no other *.mcap in it: nothing "
            "can be repaired; bring the files back. Nothing was changed"
        )
    if not files and not old:
        raise DataError(f"{folder} is not a bag: no metadata.yaml and no *.mcap in it")
    return files


def _look(scan: McapScan) -> StoredEpisode:
    """Read a file through and say what is in it."""
    episode = StoredEpisode(scan.path, scan=scan)
    for part in scan.parts():
        if isinstance(part, Metadata):
            episode.metadata.append(part)
        elif isinstance(part, list):
            for m in part:
                episode.count(scan.channels[m.channel_id].topic, m.log_time)
    episode.topics = [topic_of(c, scan.schemas.get(c.schema_id)) for _, c in sorted(scan.channels.items())]
    episode.finished, episode.damages = scan.finished, scan.damages
    return episode


def _reasons(scan: McapScan) -> Iterator[str]:
    for damage in scan.damages:
        yield f"at byte {damage.offset}: {damage.reason}"
    if not scan.finished and not scan.damages:
        yield "it ends without an index"
    if scan.index is not None and scan.index.statistics is None:
        yield "it has no index"


def _describe(bag: StoredBag, episode: StoredEpisode, reasons: Sequence[str], note: str = "") -> RepairedFile:
    lost = loss(bag, episode) or Loss(0, 0, 0.0)
    return RepairedFile(episode.name, episode.counts.total(), lost, tuple(reasons), note)


def _rewrite(scan: McapScan, done: RepairedFile) -> StoredEpisode:
    """Write the whole parts of a file anew, with index, and put the result in its place."""
    file = scan.path
    again = McapScan(file)
    # What the first pass found may stand behind what needs it.
    again.schemas, again.channels = dict(scan.schemas), dict(scan.channels)
    episode = StoredEpisode(file)
    temporary = file.with_name(f".{file.name}{_TEMPORARY}")
    try:
        with temporary.open("wb") as stream:
            mcap = Writer(stream, chunk_size=1 << 30, compression=CompressionType.ZSTD)
            mcap.start(profile=scan.header.profile if scan.header else "ros2", library="h2o_control")
            schemas = {i: mcap.register_schema(s.name, s.encoding, s.data) for i, s in sorted(scan.schemas.items())}
            channels = {
                i: mcap.register_channel(c.topic, c.message_encoding, schemas.get(c.schema_id, 0), c.metadata)
                for i, c in sorted(scan.channels.items())
            }
            for part in again.parts():
                if isinstance(part, Metadata):
                    mcap.add_metadata(part.name, part.metadata)
                    episode.metadata.append(part)
                elif isinstance(part, Attachment):
                    mcap.add_attachment(part.create_time, part.log_time, part.name, part.media_type, part.data)
                else:
                    for m in part:
                        mcap.add_message(channels[m.channel_id], m.log_time, m.data, m.publish_time, m.sequence)
                        episode.count(scan.channels[m.channel_id].topic, m.log_time)
                    mcap.flush()
            record = _provenance(done)
            mcap.add_metadata(REPAIR_RECORD, record)
            episode.metadata.append(Metadata(name=REPAIR_RECORD, metadata=record))
            mcap.finish()
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(file, _spare(file))
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
    episode.topics = [topic_of(c, scan.schemas.get(c.schema_id)) for _, c in sorted(scan.channels.items())]
    return episode


def _provenance(done: RepairedFile) -> dict[str, str]:
    kept = {**done.loss.row(), "reasons": done.reasons, "software": software()}
    return {"repaired_at": now_utc(), **{key: json.dumps(value) for key, value in kept.items()}}


def _spare(file: Path) -> Path:
    """Name under which the original stays; an earlier original is never overwritten."""
    spare, number = file.with_name(file.name + KEPT), 1
    while spare.exists():
        number += 1
        spare = file.with_name(f"{file.name}{KEPT}-{number}")
    return spare


def _refuse_if_written(file: Path) -> None:
    """Ask the system whether anybody has the file open for writing; recorders of others hold no lock of ours."""
    with file.open("rb") as stream:
        try:
            fcntl.fcntl(stream, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except BlockingIOError:
            raise DataError(f"{file} is open for writing; stop its recorder first") from None
        except OSError:
            # A file system without leases, or a file of somebody else: the lock on the folder has to do.
            return
        fcntl.fcntl(stream, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def _custom(old: dict[str, Any]) -> dict[str, str]:
    return {str(k): str(v) for k, v in (old.get("custom_data") or {}).items()}


def _information(bag: StoredBag, repaired: dict[str, RepairedFile]) -> dict[str, Any]:
    """What metadata.yaml should say of these files."""
    custom: dict[str, str] = {}
    for record in (m for e in bag.episodes for m in e.metadata if m.name == "h2o"):
        custom.update({k: v for k, v in record.metadata.items() if k != "h2o.episodes"})
    custom.update(bag.custom)
    if custom:
        rows = []
        for episode in bag.episodes:
            row = {"file": episode.name, "label": "", "recorded_at": "", "end_reason": "", **bag.row(episode)}
            if episode.name in repaired:
                done = repaired[episode.name]
                unlisted = StoredBag(bag.path, bag.episodes, {}, {})
                row["end_reason"] = row["end_reason"] or END_REASON
                # With that of earlier repairs, which the file keeps.
                row["repaired"] = (earlier_loss(unlisted, episode) or done.loss).row()
            rows.append(row)
        custom["h2o.episodes"] = json.dumps(rows)
    information = bag_information(bag.episodes, custom, str(bag.information.get("ros_distro") or ""))
    # Topics without a message in any file are known from the old one alone.
    there = {t["topic_metadata"]["name"] for t in information["topics_with_message_count"]}
    for entry in bag.information.get("topics_with_message_count", []):
        if entry["topic_metadata"]["name"] not in there and bag.information.get("version") == 9:
            information["topics_with_message_count"].append({**entry, "message_count": 0})
    return information


def _what_is_stale(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Say what metadata.yaml has wrong, "" where it may stay."""
    if [Path(n).name for n in old["relative_file_paths"]] != new["relative_file_paths"]:
        return f"it lists {len(old['relative_file_paths'])} of {len(new['relative_file_paths'])} files"
    if old.get("message_count") != new["message_count"]:
        return f"it counts {old.get('message_count')} messages, {new['message_count']} are there"
    counts = {f["path"]: f["message_count"] for f in old.get("files") or []}
    if counts and counts != {f["path"]: f["message_count"] for f in new["files"]}:
        return "its counts of the files are wrong"
    if _topic_counts(old) != _topic_counts(new):
        return "its counts of the topics are wrong"
    return ""


def _topic_counts(information: dict[str, Any]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for entry in information.get("topics_with_message_count") or []:
        name = entry["topic_metadata"]["name"]
        counts[name] = counts.get(name, 0) + entry["message_count"]
    return {name: count for name, count in counts.items() if count}
