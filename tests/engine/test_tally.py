"""What is held on tensors without values is what the same code holds on real ones."""

import torch

from tutelage.engine.tally import GIVEN_BACK, Tally


def test_storages_come_and_go_and_the_most_is_remembered() -> None:
    tally = Tally()
    with tally:
        kept = torch.empty(1000, device="meta")
        with tally.labelled("more"):
            for _ in range(3):
                gone = kept * 2
                assert tally.live == {"weights": 4000, "more": gone.nbytes}
                del gone
        view = kept[:10]
    assert tally.bytes == 4000
    assert tally.peak == {"weights": 4000, "more": 4000}
    del kept
    assert tally.bytes == 4000  # a view holds its storage
    del view
    assert tally.bytes == 0


def test_small_blocks_stay_with_the_process_and_large_ones_do_not() -> None:
    tally = Tally()
    with tally:
        for size in (GIVEN_BACK // 2, GIVEN_BACK):
            torch.empty(size, dtype=torch.uint8, device="meta")
        last = torch.empty(GIVEN_BACK, dtype=torch.uint8, device="meta")
    assert (tally.bytes, tally.allocator) == (last.nbytes, GIVEN_BACK // 2)
    tally.settle()
    assert tally.allocator == 0


def test_products_are_counted_and_values_are_made_up() -> None:
    tally = Tally()
    with tally:
        a, b = torch.empty(3, 5, device="meta"), torch.empty(5, 7, device="meta")
        product = a @ b
        assert float(product.sum()) == 1.0
        assert bool((product > 0).any())
        assert len(torch.unique(torch.empty(9, dtype=torch.int64, device="meta"))) == 9
        assert product.cpu().shape == (3, 7)
    assert tally.operations == 2 * 3 * 5 * 7


def test_what_is_as_wide_as_the_vocabulary_has_its_own_label() -> None:
    tally = Tally()
    with tally, tally.wide("loss", 11):
        logits, hidden = torch.empty(3, 11, device="meta"), torch.empty(3, 4, device="meta")
    assert tally.live == {"loss": logits.nbytes, "weights": hidden.nbytes}


def test_what_is_changed_in_place_holds_nothing_and_its_products_count() -> None:
    tally = Tally()
    with tally:
        into, a, b = (torch.empty(shape, device="meta") for shape in ((3, 7), (3, 5), (5, 7)))
        held = tally.bytes
        assert into.addmm_(a, b).mul_(2).add_(1) is into
        assert (tally.bytes, tally.peak.total()) == (held, held)
        into.squeeze_(0).transpose_(0, 1)
    assert into.shape == (7, 3)
    assert tally.operations == 2 * 3 * 5 * 7
