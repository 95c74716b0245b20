"""``exitbits study``: list, rename, archive, retry, delete, export and import studies."""

from __future__ import annotations

import argparse
import sys

from search.display import visible
from search.errors import BadInput
from studies.commands.common import add_store, read_store
from studies.records import Study, StudyVersion
from studies.store.address import refuse_password
from studies.store.writer import StudyStore


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions of ``exitbits study``."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="names of the studies")
    listing.add_argument("--archived", action="store_true", help="archived ones too")
    rename = actions.add_parser("rename", help="give a study another name")
    rename.add_argument("study", help="name of the study")
    rename.add_argument("new_name", help="what it is called from now on")
    for name, text in (
        ("archive", "hide a study from lists and workers"),
        ("restore", "show an archived study again"),
        ("retry", "try failed trials again, and have workers serve a study they gave up"),
    ):
        actions.add_parser(name, help=text).add_argument("study", help="name of the study")
    delete = actions.add_parser("delete", help="remove a study for good")
    delete.add_argument("study", help="name of the study")
    delete.add_argument("--yes", action="store_true", help="do not ask")
    for name, text in (
        ("export", "copy a study into a stock Optuna database"),
        ("import", "copy a study from a stock Optuna database"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("study", help="name of the study")
        action.add_argument("database", metavar="URL", help="the other database")
    for action in actions.choices.values():
        add_store(action)


def run(args: argparse.Namespace) -> int:
    """Do the action."""
    store = StudyStore(read_store(args))
    if args.action == "list":
        for name in store.names(archived=args.archived):
            print(visible(name))
    elif args.action == "import":
        _exchange(store, args, None)
    elif args.action == "export":
        _exchange(store, args, store.get(args.study))
    else:
        _change(store, args, store.version(args.study))
    return 0


def _change(store: StudyStore, args: argparse.Namespace, study: StudyVersion) -> None:
    if args.action == "rename":
        store.rename(study.id, args.new_name)
    elif args.action == "retry":
        count = store.retry(study.id)
        what = "1 failed trial" if count == 1 else f"{count} failed trials"
        print(f"study {args.study}: {what} will be tried again; workers serve it")
    elif args.action == "delete":
        _delete(store, study, args.yes)
    else:
        store.set_archived(study.id, args.action == "archive")


def _exchange(store: StudyStore, args: argparse.Namespace, study: Study | None) -> None:
    from studies.store.exchange import export_study, import_study

    refuse_password(args.database)
    copied = (
        import_study(store, args.study, args.database)
        if study is None
        else export_study(store, study.id, args.database)
    )
    print(f"{copied} trials copied")


def _delete(store: StudyStore, study: StudyVersion, yes: bool) -> None:
    progress, name = store.progress(study.id), study.name
    if not yes:
        if not sys.stdin.isatty():
            raise BadInput(
                f"deleting {name!r} loses {progress.finished} results for good: confirm with --yes"
            )
        print(f"{visible(name)} has {progress.finished} results, which will be lost for good.")
        if input("Type the study's name to delete it: ") != name:
            raise BadInput(f"{name!r} was not deleted: the name did not match")
    store.delete(study.id)
