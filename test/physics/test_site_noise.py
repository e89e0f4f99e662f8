"""The hash behind vacancies, phonons and damage: is it random where it should be, and fixed where it must be?"""

import numpy as np
import pytest
from scipy import stats

from edgetem_nodes.physics import site_noise

COUNTER = np.arange(1 << 18, dtype=np.uint64)
LATTICE = ((np.arange(512, dtype=np.uint64)[:, None] << np.uint64(40)) | (np.arange(512, dtype=np.uint64) << np.uint64(16))
           ).ravel()


@pytest.mark.parametrize("identity", [COUNTER, LATTICE, COUNTER << np.uint64(46), ~COUNTER], ids=["counter", "lattice",
                                                                                                   "high bits", "negative"])
def test_regular_identities_give_uniform_numbers(identity):
    drawn = site_noise.uniform(3, identity, "vacancy")
    assert 0 <= drawn.min() < drawn.max() < 1
    assert stats.kstest(drawn, "uniform").pvalue > 1e-3
    assert stats.chisquare(np.histogram(drawn, 4096, (0, 1))[0]).pvalue > 1e-3


@pytest.mark.parametrize("step", [1, 2, 512, 513])
def test_neighbours_are_independent(step):
    """Pairs of neighbouring sites fill the unit square evenly."""
    drawn = site_noise.uniform(3, LATTICE, "vacancy")
    pairs = np.histogram2d(drawn[:-step], drawn[step:], 32, ((0, 1), (0, 1)))[0]
    assert stats.chisquare(pairs.ravel()).pvalue > 1e-3


@pytest.mark.parametrize("other", [(4, "vacancy"), (3, "dopant"), (3, "vacancy", 0), (3, "vacancy", 1), (3, 0), (3, 1),
                                   (2 ** 63, "vacancy")], ids=str)
def test_seeds_and_streams_are_independent(other):
    drawn = site_noise.uniform(3, COUNTER, "vacancy")
    second = site_noise.uniform(other[0], COUNTER, *other[1:])
    pairs = np.histogram2d(drawn, second, 32, ((0, 1), (0, 1)))[0]
    assert stats.chisquare(pairs.ravel()).pvalue > 1e-3
    assert abs(np.corrcoef(drawn, second)[0, 1]) < 5 / np.sqrt(len(COUNTER))


def test_neither_is_a_shifted_copy_of_another():
    first, second = (np.sort(site_noise.words(3, COUNTER, stream)) for stream in (1, 2))
    assert len(np.intersect1d(first, second)) == 0


def test_every_bit_of_the_identity_moves_half_of_the_bits():
    """Avalanche: 64 x 64 flip rates over 4096 words; the worst of them within 5.5 sigma of one half."""
    identity = site_noise.words(9, np.arange(4096), "start")
    flipped = identity[None] ^ (np.uint64(1) << np.arange(64, dtype=np.uint64))[:, None]
    change = site_noise.words(3, identity, 0)[None] ^ site_noise.words(3, flipped, 0)
    rate = np.unpackbits(change.view(np.uint8).reshape(64, 4096, 8), axis=-1).mean(axis=1)
    assert abs(rate - 0.5).max() < 5.5 * 0.5 / np.sqrt(4096)


def test_normal_numbers_are_normal_in_every_direction():
    drawn = site_noise.normals(3, COUNTER, 3, "phonon", 5)
    assert drawn.shape == (len(COUNTER), 3)
    for column in range(3):
        assert stats.kstest(drawn[:, column], "norm").pvalue > 1e-3
    assert np.corrcoef(drawn.T) == pytest.approx(np.eye(3), abs=5 / np.sqrt(len(COUNTER)))
    assert stats.kstest((drawn ** 2).sum(axis=1), "chi2", (3,)).pvalue > 1e-3
    assert np.array_equal(drawn[:, 0], site_noise.normal(3, COUNTER, "phonon", 5))
    assert np.array_equal(drawn[:, :2], site_noise.normals(3, COUNTER, 2, "phonon", 5))


def test_a_number_belongs_to_its_identity_alone():
    order = np.random.default_rng(0).permutation(1000)
    for draw in (site_noise.words, site_noise.uniform, site_noise.normal):
        together = draw(3, COUNTER[:1000], "damage")
        assert np.array_equal(draw(3, COUNTER[:1000][order], "damage"), together[order])
        assert draw(3, np.uint64(17), "damage") == together[17]
        assert np.array_equal(np.concatenate([draw(3, part, "damage") for part in np.split(COUNTER[:1000], [3, 17, 500])]),
                              together)


def test_words_are_the_same_on_every_machine():
    assert [hex(w) for w in site_noise.words(7, np.array([0, 1, -1]), "vacancy", 2)] == [
        "0x840676477af5e4be", "0xd0dbea5a8a85c6a7", "0x2397be8b133b7d53"]


def test_combined_identities_do_not_collide():
    i, j = np.mgrid[-300:300, -300:300]
    both = site_noise.combined(i, j, 2)
    assert both.shape == i.shape and len(np.unique(both)) == both.size
    assert not np.array_equal(both, site_noise.combined(j, i, 2))


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match="seed -1"):
        site_noise.uniform(-1, COUNTER, 0)
