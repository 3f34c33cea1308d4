"""KV pages: who owns which. Knows no tensors."""


class PagePool:
    """`n_pages` pages, each free or taken. The lowest free one is not promised, only a free one."""

    def __init__(self, n_pages: int):
        self.n_pages = n_pages
        self._free = list(range(n_pages - 1, -1, -1))
        self._taken = bytearray(n_pages)

    @property
    def n_free(self) -> int:
        return len(self._free)

    def take(self, n: int) -> list[int]:
        """n pages, which must be free."""
        assert n <= len(self._free), (n, len(self._free))
        pages = [self._free.pop() for _ in range(n)]
        for page in pages:
            self._taken[page] = 1
        return pages

    def give(self, pages: list[int]) -> None:
        """Pages back; each must have been taken."""
        for page in pages:
            assert self._taken[page], f"page {page} is free already"
            self._taken[page] = 0
            self._free.append(page)
