"""The command that serves to browsers: web."""

import argparse
import webbrowser

from spectok.web import PageServer, export_page


def web(args: argparse.Namespace) -> None:
    """Serve the page on this computer until Ctrl-C, or write it into a folder."""
    if args.export is not None:
        size = export_page(args.export)
        print(f"{args.export}: {size / 1e6:.1f} MB")
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
