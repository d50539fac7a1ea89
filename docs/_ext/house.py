"""The house's colours, as the report has them, under the names that the theme asks for."""

from __future__ import annotations

CODE = "'JetBrains Mono', ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
WORDS = "system-ui, -apple-system, 'Segoe UI', 'Noto Sans', 'DejaVu Sans', sans-serif"


def _scheme(paper: str, raised: str, ink: str, muted: str, grid: str, accent: str, visited: str) -> dict[str, str]:
    return {
        "font-stack": WORDS,
        "font-stack--monospace": CODE,
        "color-foreground-primary": ink,
        "color-foreground-secondary": muted,
        "color-foreground-muted": muted,
        "color-foreground-border": muted,
        "color-background-primary": paper,
        "color-background-secondary": raised,
        "color-background-hover": raised,
        "color-background-border": grid,
        "color-code-background": raised,
        "color-brand-primary": accent,
        "color-brand-content": accent,
        "color-brand-visited": visited,
        "color-api-name": ink,
        "color-api-pre-name": muted,
    }


LIGHT = _scheme("#fefefe", "#f4f6f8", "#1d2430", "#566070", "#dfe3e8", "#0b5cad", "#6a3fa0")
DARK = _scheme("#12161d", "#1b212b", "#e8ebf0", "#a3adbc", "#323b49", "#7db8f5", "#c3a6f2")
