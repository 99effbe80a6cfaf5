"""The one exception for input that cannot be used: shown as a single line, without a traceback."""


class BadInput(ValueError):
    """What is wrong, where, and what would be right, in one line."""

    def __init__(self, what: str, *, where: str = "", right: str = "") -> None:
        self.what, self.where, self.right = what, where, right
        parts = [f"{where}: {what}" if where else what]
        if right:
            parts.append(f"expected {right}")
        super().__init__(" ".join("; ".join(parts).split()))
