"""The commands that serve: web to browsers, serve to clients that stream."""

import argparse
import os
import webbrowser

from spectok import pretrained
from spectok.errors import InputError, shown
from spectok.web import PageServer, export_page


def web(args: argparse.Namespace) -> None:
    """Serve the page on this computer until Ctrl-C, or write it into a folder."""
    if args.export is not None:
        size = export_page(args.export)
        print(f"{shown(args.export)}: {size / 1e6:.1f} MB")
        return
    with PageServer(args.port) as server:
        thread = server.start()
        print(f"{server.url} (Ctrl-C ends it)", flush=True)
        if args.open:
            webbrowser.open(server.url)
        try:
            thread.join()
        except KeyboardInterrupt:
            server.shutdown()


def serve(args: argparse.Namespace) -> None:
    """Encode and decode streams of clients until SIGTERM or Ctrl-C."""
    try:
        from spectok.serve import server, workers
    except ModuleNotFoundError as error:
        raise InputError(f"spectok serve needs websockets: pip install 'spectok[serve]' ({error})") from error
    options = server.Options(
        models=tuple(args.model or pretrained.models()),
        host=args.host,
        port=args.port,
        workers=args.workers,
        max_streams=args.max_streams,
        token=args.token or os.environ.get("SPECTOK_TOKEN", ""),
        idle_timeout=args.idle_timeout,
        origins=tuple(args.origin),
    )

    def listening(port: int) -> None:
        if not args.quiet:
            host = f"[{args.host}]" if ":" in args.host else args.host
            print(f"listening on ws://{host}:{port} with {', '.join(options.found())}", flush=True)

    (server.run if args.workers == 1 else workers.run)(options, listening)
