from __future__ import annotations

from torch.utils.data import DataLoader, Dataset

from ldm.data.items import SharedEpoch


class Epochs(Dataset[int]):
    """The epoch that an item is of; item 1 asks for epoch 7 first."""

    def __init__(self) -> None:
        self.epoch = SharedEpoch()

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        if index == 1:
            self.epoch.set(7)
        return int(self.epoch)


def test_a_worker_sees_a_change_but_not_what_another_sets() -> None:
    items = Epochs()
    loader = DataLoader(items, batch_size=None, num_workers=2, persistent_workers=True)
    items.epoch.set(3)
    assert list(loader) == [3, 7]
    assert int(items.epoch) == 3
    items.epoch.set(4)
    assert list(loader) == [4, 7]
