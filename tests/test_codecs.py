"""Codecs: what a message loses, what it weighs, and what the sender keeps of the rest."""

import pickle
from itertools import pairwise
from math import ceil, sqrt

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from asgd.codecs import QSGD, BFloat16, Encoded, Float16, Identity, PowerSGD, RandomBlock, Sign, TopK
from tests.scripted import CONF

SHAPES = [torch.Size(shape) for shape in ((12, 20), (12,), (8, 3, 3, 3), (7, 2), (5,))]
P = sum(shape.numel() for shape in SHAPES)  # 487
FLAT = [torch.Size((1000,))]
FILES = sorted((CONF / "codec").glob("*.yaml"))
WITH_FEEDBACK = {
    "topk": lambda **options: TopK(SHAPES, 0, 1, fraction=0.1, **options),
    "random_block": lambda **options: RandomBlock(SHAPES, 0, 1, fraction=0.1, **options),
    "powersgd": lambda **options: PowerSGD(SHAPES, 0, 1, matrix_rank=1, **options),
    "sign": lambda **options: Sign(SHAPES, 0, 1, **options),
}
feedback = pytest.mark.parametrize("name", WITH_FEEDBACK)


def a_vector(seed: int = 0, size: int = P) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def made(path, seed: int = 0, rank: int = 1, shapes=SHAPES, **options):
    return instantiate(OmegaConf.load(path), **options)(shapes, seed, rank)


def messages(codec, *seeds: int) -> list[bytes]:
    """What travels for these vectors, byte by byte."""
    sent = [codec.encode(a_vector(each)).parts for each in seeds]
    return [b"".join(part.view(torch.uint8).numpy().tobytes() for part in parts) for parts in sent]


def roundtrip(codec, vector: torch.Tensor) -> torch.Tensor:
    return codec.decode(codec.encode(vector))


def squared(vector: torch.Tensor) -> float:
    return vector.double().square().sum().item()


def same_bits(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.equal(found.view(torch.int32), expected.view(torch.int32))


each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
RANDOM = [("bf16", {"stochastic": True}), ("fp16", {"stochastic": True}), ("qsgd", {}), ("random_block", {})]


# What holds for all of them


def test_there_is_a_file_for_every_codec():
    targets = {OmegaConf.load(path)._target_ for path in FILES}
    classes = (Identity, BFloat16, Float16, TopK, RandomBlock, QSGD, PowerSGD, Sign)
    assert targets == {f"asgd.codecs.{each.__name__}" for each in classes}


@each_file
def test_a_message_is_immutable_and_owes_nothing_to_the_vector(path):
    codec, vector = made(path), a_vector()
    for _ in range(3):
        before = vector.clone()
        encoded = codec.encode(vector)
        assert torch.equal(vector, before)
        copies = [part.clone() for part in encoded.parts]
        decoded = codec.decode(encoded)
        vector.fill_(7.0)
        codec.encode(a_vector(1))
        assert all(map(torch.equal, encoded.parts, copies))
        assert torch.equal(codec.decode(encoded), decoded) and decoded.dtype == torch.float32
        decoded.zero_()
        assert all(map(torch.equal, encoded.parts, copies))
        vector = a_vector(2)


@each_file
def test_any_codec_of_the_same_options_decodes_a_message_that_has_travelled(path):
    codec = made(path)
    encoded = codec.encode(a_vector())
    assert all(part.dim() == 1 and part.is_contiguous() and part.device.type == "cpu" for part in encoded.parts)
    assert encoded.nbytes == sum(part.numel() * part.element_size() for part in encoded.parts)
    travelled = pickle.loads(pickle.dumps(encoded))
    assert isinstance(travelled, Encoded)
    assert torch.equal(made(path, seed=9, rank=5).decode(travelled), codec.decode(encoded))


@each_file
def test_equal_seeds_and_ranks_give_equal_bytes_and_state_goes_on_where_it_was(path):
    expected = messages(made(path), 1, 2, 3, 4)
    assert messages(made(path), 1, 2, 3, 4) == expected
    first, second = made(path), made(path, rank=4)
    assert messages(first, 1, 2) == expected[:2]
    second.rank = first.rank
    second.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
    assert messages(first, 3, 4) == messages(second, 3, 4) == expected[2:]


@pytest.mark.parametrize(("name", "options"), RANDOM, ids=[name for name, _ in RANDOM])
def test_workers_seeds_and_rounds_draw_differently(name, options):
    path = CONF / "codec" / f"{name}.yaml"
    streams = [messages(made(path, seed, rank, **options), 1)[0] for seed, rank in ((0, 1), (0, 2), (1, 1))]
    codec = made(path, **options)
    codec.encode(a_vector())
    codec.residual = None
    assert len({*streams, *messages(codec, 1)}) == 4


@each_file
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_vector_that_is_not_finite_reaches_the_server_as_such_and_spoils_nothing(path, bad):
    codec, vector = made(path), a_vector()
    vector[17] = bad
    codec.encode(a_vector(1))
    state = codec.state_dict()
    assert not roundtrip(codec, vector).isfinite().all()
    assert all(codec.state_dict()[key] is state[key] for key in state if key != "round")
    assert roundtrip(codec, a_vector(2)).isfinite().all()


@each_file
def test_numbers_at_the_ends_of_float32_raise_no_error(path):
    for value in (3.4e38, -3e38, 1e25, 1e-25, 1e-40, 1.4e-45, 0.0):
        assert roundtrip(made(path), torch.full((P,), value)).shape == (P,)


@each_file
@pytest.mark.parametrize("shapes", [[()], [(1,)], [(3, 1), (0,), (1, 1)], [(0, 4), (2, 3)]], ids=str)
def test_small_models_and_empty_tensors(path, shapes):
    codec = made(path, shapes=[torch.Size(shape) for shape in shapes])
    for seed in range(3):
        assert roundtrip(codec, a_vector(seed, codec.size)).isfinite().all()


@each_file
def test_what_is_no_vector_is_refused(path):
    with pytest.raises(ValueError, match=rf"\[{P}\]"):
        made(path).encode(torch.zeros(P + 1))
    with pytest.raises(ValueError, match=r"shapes=.*parameter"):
        made(path, shapes=[])
    if path.stem != "none":
        with pytest.raises(ValueError, match=r"float32.*float64.*codec=none"):
            made(path).encode(torch.zeros(P, dtype=torch.float64))


@each_file
def test_a_malformed_message_is_refused(path):
    codec = made(path)
    parts = codec.encode(a_vector()).parts
    wrong = [(*parts, parts[0]), (parts[0][:-1], *parts[1:]), (torch.cat((parts[0], parts[0])), *parts[1:])]
    wrong += [(parts[0].reshape(1, -1), *parts[1:]), ("x" * P, *parts[1:])]
    if path.stem != "none":
        wrong += [(parts[0].double(), *parts[1:])]
        floating = [place for place, part in enumerate(parts) if part.is_floating_point()]
        wrong += [(*parts[:place], parts[place] * torch.nan, *parts[place + 1 :]) for place in floating]
    for each in wrong:
        with pytest.raises(ValueError, match=r"decodes|takes|not finite"):
            codec.decode(Encoded(each))


def test_numbers_out_of_their_range_are_refused():
    indices, values = TopK(SHAPES, 0, 1, fraction=0.01).encode(a_vector()).parts
    for bad in (indices - P, indices + P, indices.flip(0), indices * 0):
        with pytest.raises(ValueError, match="indices"):
            TopK(SHAPES, 0, 1, fraction=0.01).decode(Encoded((bad, values)))
    block = RandomBlock(SHAPES, 0, 1, fraction=0.1)
    for start in (-1, P, 2**62):
        with pytest.raises(ValueError, match=f"starts at {start}"):
            block.decode(Encoded((torch.tensor([start]), block.encode(a_vector()).parts[1])))
    packed, norms = QSGD(SHAPES, 0, 1, levels=5).encode(a_vector()).parts
    for bad in ((packed | 0xF0, norms), (packed, -norms)):
        with pytest.raises(ValueError, match=r"codec\.levels=5"):
            QSGD(SHAPES, 0, 1, levels=5).decode(Encoded(bad))
    for exponent in (-121, 114):
        with pytest.raises(ValueError, match=f"exponent {exponent}"):
            Float16(SHAPES, 0, 1).decode(Encoded((torch.zeros(P).half(), torch.tensor([exponent], dtype=torch.int8))))


@pytest.mark.parametrize(
    ("codec", "option", "value"),
    [(TopK, "fraction", each) for each in (0, 2, -0.1, "all", True, float("nan"))]
    + [(RandomBlock, "fraction", 0.0), (QSGD, "levels", 0), (QSGD, "levels", 128), (QSGD, "levels", 1.5)]
    + [(QSGD, "bucket", 0), (QSGD, "bucket", 2.0), (PowerSGD, "matrix_rank", 0), (PowerSGD, "matrix_rank", True)],
)
def test_a_bad_option_is_named_as_it_is_typed(codec, option, value):
    with pytest.raises(ValueError, match=rf"codec\.{option}={value}: "):
        codec(SHAPES, 0, 1, **{option: value})


def test_bytes_by_formula():
    def nbytes(codec) -> int:
        return codec.encode(a_vector()).nbytes

    k = round(0.07 * P)
    assert nbytes(Identity(SHAPES, 0, 1)) == 4 * P
    assert nbytes(BFloat16(SHAPES, 0, 1)) == 2 * P and nbytes(Float16(SHAPES, 0, 1, stochastic=True)) == 2 * P + 1
    assert nbytes(TopK(SHAPES, 0, 1, fraction=0.07)) == 8 * k
    assert nbytes(TopK(SHAPES, 0, 1, fraction=1e-9)) == 8  # one entry at least
    assert nbytes(RandomBlock(SHAPES, 0, 1, fraction=0.07)) == 4 * k + 8
    assert nbytes(Sign(SHAPES, 0, 1)) == ceil(P / 8) + 4 * len(SHAPES)
    for levels, bits in ((1, 2), (2, 4), (7, 4), (8, 8), (127, 8)):
        for bucket in (None, 1, 50, 10**6):
            norms = ceil(P / min(bucket or P, P))
            assert nbytes(QSGD(SHAPES, 0, 1, levels=levels, bucket=bucket)) == ceil(P * bits / 8) + 4 * norms
    for rank in (1, 2, 100):
        low, plain = 0, 0
        for shape in SHAPES:
            n, m = shape[0], shape.numel() // shape[0]
            r = min(rank, n, m)
            low, plain = (low + r * (n + m), plain) if r * (n + m) < n * m else (low, plain + n * m)
        assert nbytes(PowerSGD(SHAPES, 0, 1, matrix_rank=rank)) == 4 * (low + plain)


# Error feedback


def integers(seed: int) -> torch.Tensor:
    return torch.randint(-1000, 1001, (P,), generator=torch.Generator().manual_seed(seed)).float()


@pytest.mark.parametrize("name", ["topk", "random_block"])
def test_c16_all_that_was_sent_and_the_residual_are_all_inputs_exactly(name):
    codec, without = WITH_FEEDBACK[name](), WITH_FEEDBACK[name](feedback=False)
    inputs, sent, lossy = torch.zeros(P), torch.zeros(P), torch.zeros(P)
    for round in range(30):
        inputs += integers(round)
        sent += roundtrip(codec, integers(round))
        lossy += roundtrip(without, integers(round))
    assert codec.residual.any() and torch.equal(sent + codec.residual, inputs)
    assert without.residual is None and not torch.equal(lossy, inputs)


@feedback
def test_c16_the_parameters_less_the_residual_follow_sgd_without_a_codec(name):
    codec, rate = WITH_FEEDBACK[name](), 0.01
    plain, params = torch.zeros(P, dtype=torch.float64), torch.zeros(P, dtype=torch.float64)
    for round in range(50):
        gradient = a_vector(round)
        plain -= rate * gradient.double()
        params -= rate * roundtrip(codec, gradient).double()
    apart = (params - plain).abs().max()
    close = (params - rate * codec.residual.double() - plain).abs().max()
    assert apart > 1e-2 and close < 1e-5


@feedback
def test_feedback_makes_a_constant_gradient_arrive_on_average(name):
    """The residual stays bounded, so the mean of what is sent tends to the input; alone, a message never does."""
    gradient = a_vector()
    codec, without = WITH_FEEDBACK[name](), WITH_FEEDBACK[name](feedback=False)
    means = {}
    for each in (codec, without):
        means[each] = sum(roundtrip(each, gradient).double() for _ in range(400)) / 400
    error = sqrt(squared(means[codec] - gradient) / squared(gradient))
    assert error == pytest.approx(sqrt(squared(codec.residual) / squared(gradient)) / 400, rel=1e-2)
    assert error < 0.1 and sqrt(squared(means[without] - gradient) / squared(gradient)) > 1.5 * error


# Top-k


def test_the_largest_magnitudes_are_sent_and_of_equal_ones_the_first():
    vector = torch.tensor([1.0, -3.0, 2.0, 3.0, -2.0, 0.0, 2.0, -0.5])
    indices, values = TopK([torch.Size((8,))], 0, 1, fraction=0.5).encode(vector).parts
    assert indices.tolist() == [1, 2, 3, 4] and values.tolist() == [-3.0, 2.0, 3.0, -2.0]
    assert indices.dtype == torch.int32
    for fraction, expected in ((3 / 8, [1, 2, 3]), (1 / 8, [1]), (7 / 8, [0, 1, 2, 3, 4, 6, 7])):
        assert TopK([torch.Size((8,))], 0, 1, fraction=fraction).encode(vector).parts[0].tolist() == expected


@pytest.mark.parametrize("size", [1000, 100_000])
@pytest.mark.parametrize("kind", ["normal", "mostly_zero", "constant", "few_values", "wide"])
def test_selection_agrees_with_a_stable_sort(kind, size):
    vector = a_vector(3, size)
    vector = {
        "normal": vector,
        "mostly_zero": vector.where(vector > 1.5, -0.0),
        "constant": torch.full((size,), -2.5),
        "few_values": (vector * 2).round(),
        "wide": vector.pow(3).clamp(max=80).exp() * 1e-38,  # subnormal numbers too
    }[kind]
    order = vector.abs().sort(descending=True, stable=True).indices
    for count in (1, size // 100, size // 3, size - 1):
        expected = order[:count].sort().values
        indices, values = TopK([vector.shape], 0, 1, fraction=count / size).encode(vector).parts
        assert torch.equal(indices.long(), expected) and same_bits(values, vector[expected])


@pytest.mark.parametrize("codec", [TopK, RandomBlock])
@pytest.mark.parametrize("feedback", [True, False])
def test_all_entries_are_the_identity_bit_for_bit(codec, feedback):
    everything, vector = codec(SHAPES, 0, 1, fraction=1, feedback=feedback), a_vector()
    vector[:3] = torch.tensor([-0.0, 1e-42, 3e38])
    for _ in range(3):
        assert same_bits(roundtrip(everything, vector), vector)
    assert everything.vectors == 0 and everything.residual is None


def test_top_k_leaves_out_at_most_its_share_of_the_squared_norm():
    for fraction in (0.01, 0.1, 0.5):
        for vector in (a_vector(1, 1000), a_vector(2, 1000).pow(5), torch.ones(1000)):
            rest = squared(vector - roundtrip(TopK(FLAT, 0, 1, fraction=fraction), vector)) / squared(vector)
            assert rest <= 1 - fraction + 1e-12
    assert rest == pytest.approx(1 - fraction)  # equal magnitudes reach the bound


# Random block


def test_a_block_goes_on_at_the_start_and_every_entry_gets_its_turn():
    codec, vector = RandomBlock(SHAPES, 0, 1, fraction=0.1, feedback=False), a_vector().abs() + 1
    count, sent = round(0.1 * P), torch.zeros(P)
    for _ in range(300):
        start = codec.encode(vector).parts[0].item()
        codec.round -= 1
        decoded = roundtrip(codec, vector)
        assert decoded.nonzero().squeeze(1).tolist() == sorted((start + place) % P for place in range(count))
        sent += decoded > 0
    probability = count / P
    assert (sent / 300 - probability).abs().max() < 5 * sqrt(probability * (1 - probability) / 300)


def test_a_block_without_feedback_is_unbiased_with_the_stated_variance():
    vector, size, count = a_vector(0, 40), 40, 10
    codec = RandomBlock([vector.shape], 0, 1, fraction=0.25, feedback=False)
    starts, total, error = {}, torch.zeros(size, dtype=torch.float64), 0.0
    while len(starts) < size:  # every place once: expectations without sampling
        encoded = codec.encode(vector)
        starts.setdefault(encoded.parts[0].item(), codec.decode(encoded).double())
    for decoded in starts.values():
        total, error = total + decoded / size, error + squared(decoded - vector) / size
    torch.testing.assert_close(total, vector.double(), rtol=1e-5, atol=1e-6)
    assert error == pytest.approx((size / count - 1) * squared(vector), rel=1e-5)


# Rounding


def test_bfloat16_to_nearest_is_torchs():
    vector = torch.cat((a_vector(), torch.tensor([0.0, -0.0, 1e-40, -3.3e38, 1 + 2**-8, 1 + 3 * 2**-8])))
    assert same_bits(roundtrip(BFloat16([vector.shape], 0, 1), vector), vector.bfloat16().float())


def test_float16_is_exact_where_eleven_bits_suffice_at_any_scale():
    steps = torch.cat((torch.arange(-2047.0, 2048.0), torch.tensor([0.0, 2.0**-17, 1 + 2.0**-10])))
    for power in (-120, -60, -8, 0, 30, 116):
        assert same_bits(roundtrip(Float16([steps.shape], 0, 1), steps * 2.0**power), steps * 2.0**power)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e30])
@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize(("codec", "precision", "step"), [(BFloat16, 2**-7, 0.0), (Float16, 2**-10, 2**-39)])
def test_rounding_errors_stay_below_their_bounds(codec, precision, step, stochastic, scale):
    vector = a_vector(0, 1000).pow(9) * scale  # 20 orders of magnitude: plain float16 would lose most of them
    above = 2.0 ** torch.frexp(vector.abs().max()).exponent.item()
    bound = (vector.abs() * precision).clamp_min(step * above) * (1.0 if stochastic else 0.5)
    error = (roundtrip(codec(FLAT, 0, 1, stochastic=stochastic), vector) - vector).abs()
    assert (error <= bound.clamp_min(2.0**-133)).all()
    assert error.any()


@pytest.mark.parametrize(("codec", "bits"), [(BFloat16, 8), (Float16, 11)])
@pytest.mark.parametrize("value", [1.0 + 2**-13, -1.7, 1.0 - 2**-14, -(2.0**-40)])
def test_stochastic_rounding_is_right_on_average_and_nearest_is_not(codec, bits, value):
    n = 200_000
    vector = torch.full((n,), value)
    vector[0] = 1.0 if codec is BFloat16 else 2.0**14  # float16: -2^-40 is then far below the smallest step
    found = roundtrip(codec([vector.shape], 3, 1, stochastic=True), vector)[1:].double()
    neighbours = found.unique()
    gap = (neighbours[-1] - neighbours[0]).item()
    chance = (value - neighbours[0].item()) / gap if gap else 0.0
    assert len(neighbours) <= 2 and 0 <= chance <= 1
    assert abs(found.mean().item() - value) <= 5 * gap * sqrt(chance * (1 - chance) / n) + 2**-38 * (codec is Float16)
    if gap and value != -(2.0**-40):
        assert gap <= 2.0 ** (1 - bits) * abs(value)
        assert abs(roundtrip(codec([vector.shape], 3, 1), vector)[1].item() - value) > 0


def test_stochastic_rounding_of_what_float16_has_only_in_equal_steps():
    """2^-24 is its smallest step, after scaling by the largest number."""
    n, step = 200_000, 2.0**-24
    for value in (0.3 * step, -0.3 * step, 100.25 * step, 1023.5 * step):
        vector = torch.full((n,), value)
        vector[0] = 2.0**14  # in [2^14, 2^15): no scaling
        found = roundtrip(Float16([vector.shape], 1, 1, stochastic=True), vector)[1:].double() / step
        below = torch.tensor(value / step).floor().item()
        assert found.unique().tolist() == [below, below + 1]
        chance = value / step - below
        assert abs(found.mean().item() - value / step) < 5 * sqrt(chance * (1 - chance) / n) + 2**-14


# QSGD


def test_qsgd_sends_whole_levels_of_the_norm_of_its_bucket():
    vector, levels, bucket = a_vector(5), 7, 100
    found = roundtrip(QSGD(SHAPES, 0, 1, levels=levels, bucket=bucket), vector)
    for start in range(0, P, bucket):
        norm = vector[start : start + bucket].double().norm()
        exact = vector[start : start + bucket].double() / norm * levels
        number = found[start : start + bucket].double() / norm * levels
        assert (number - number.round()).abs().max() < 1e-5
        assert ((number.round() >= exact.floor()) & (number.round() <= exact.ceil())).all()


@pytest.mark.parametrize(("levels", "bucket"), [(1, 96), (4, 96), (7, 32), (127, 96)])
def test_c18_qsgd_is_unbiased_and_its_variance_below_the_bound(levels, bucket):
    size, trials = 96, 4000
    vector = a_vector(1, size) * torch.logspace(-3, 1, size)
    copies = vector.repeat(trials)  # whole buckets, so each copy is a trial of its own
    found = roundtrip(QSGD([copies.shape], 0, 1, levels=levels, bucket=bucket), copies).view(trials, size).double()
    rows = vector.double().view(-1, bucket)
    norms = rows.norm(dim=1, keepdim=True)
    chance = (rows.abs() / norms * levels).frac()
    variance = ((norms / levels).square() * chance * (1 - chance)).view(-1)
    tolerance = 5 * (variance / trials).sqrt() + 2.0**-17 * norms.max() / levels
    assert ((found.mean(0) - vector).abs() <= tolerance).all()
    errors = (found - vector).square().sum(1)
    assert abs(errors.mean() - variance.sum()) <= 5 * errors.std() / sqrt(trials)
    assert variance.sum() <= min(bucket / levels**2, sqrt(bucket) / levels) * squared(vector)


def test_no_bucket_is_one_bucket_for_all():
    assert messages(QSGD(SHAPES, 0, 1, bucket=None), 1, 2) == messages(QSGD(SHAPES, 0, 1, bucket=P), 1, 2)


def test_qsgd_is_exact_for_a_single_number_and_for_zeros():
    codec = QSGD(SHAPES, 0, 1, levels=5, bucket=64)
    vector = torch.zeros(P)
    vector[::64] = torch.arange(1.0, 1 + len(vector[::64])) * torch.tensor([-5.0, 5.0]).repeat(4)
    torch.testing.assert_close(roundtrip(codec, vector), vector, rtol=1e-6, atol=0)
    assert not roundtrip(codec, torch.zeros(P)).any()


def test_no_number_gets_above_the_highest_level():
    vector = torch.ones(2_000_000)  # each is its bucket's norm; 127 plus the largest draws is 128 in float32
    found = roundtrip(QSGD([vector.shape], 0, 1, levels=127, bucket=1), vector)
    torch.testing.assert_close(found, vector, rtol=1e-6, atol=0)


def test_qsgd_survives_numbers_whose_squares_leave_float32():
    for scale in (1e-30, 1e30):
        vector = torch.zeros(P)
        vector[:2] = torch.tensor([3 * scale, -4 * scale])
        found = roundtrip(QSGD(SHAPES, 0, 1, levels=5), vector)
        torch.testing.assert_close(found, vector, rtol=1e-5, atol=0)


# PowerSGD


def of_rank(rank: int, rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    factors = [torch.randn(size, rank, generator=generator) for size in (rows, columns)]
    return factors[0] @ factors[1].T


@pytest.mark.parametrize(("rank", "own"), [(1, 1), (3, 1), (3, 3), (4, 3)])
def test_c19_a_matrix_of_no_higher_rank_is_exact_after_one_iteration(rank, own):
    matrix, bias = of_rank(own, 30, 40), a_vector(1, 7)
    codec = PowerSGD([torch.Size((30, 5, 8)), torch.Size((7,))], 0, 1, matrix_rank=rank)
    found = roundtrip(codec, torch.cat((matrix.view(-1), bias)))
    tolerance = 1e-6 * matrix.norm().item()
    torch.testing.assert_close(found[:1200].view(30, 40), matrix, rtol=0, atol=tolerance)
    assert torch.equal(found[1200:], bias) and codec.residual.abs().max() < tolerance


def test_c19_left_factors_are_orthonormal_even_for_zero_and_for_lower_rank():
    shapes, rank = [torch.Size((30, 40)), torch.Size((20, 25))], 3
    for first, second in ((of_rank(1, 30, 40), torch.zeros(20, 25)), (a_vector(0, 1200), a_vector(1, 500))):
        codec = PowerSGD(shapes, 0, 1, matrix_rank=rank)
        _, lefts, _ = codec.encode(torch.cat((first.reshape(-1), second.reshape(-1)))).parts
        for left in (lefts[:90].view(30, rank), lefts[90:].view(20, rank)):
            torch.testing.assert_close(left.T @ left, torch.eye(rank), rtol=0, atol=1e-5)


def test_a_warm_start_tends_to_the_best_approximation_and_a_cold_one_does_not():
    matrix = of_rank(12, 30, 40)
    values = torch.linalg.svdvals(matrix.double())
    best = values[2:].square().sum().sqrt().item()
    warm = PowerSGD([matrix.shape], 0, 1, matrix_rank=2, feedback=False)
    errors = [sqrt(squared(roundtrip(warm, matrix.view(-1)) - matrix.view(-1))) for _ in range(60)]
    assert errors[0] > 1.02 * best and errors[-1] == pytest.approx(best, rel=1e-4)
    assert all(later <= earlier * (1 + 1e-5) for earlier, later in pairwise(errors))


def test_a_factor_recovers_from_a_gradient_of_zero():
    matrix, codec = of_rank(2, 30, 40), PowerSGD([torch.Size((30, 40))], 0, 1, matrix_rank=2, feedback=False)
    codec.encode(torch.zeros(1200))
    assert not codec.right.any()
    found = [roundtrip(codec, matrix.view(-1)) for _ in range(2)][-1]
    torch.testing.assert_close(found.view(30, 40), matrix, rtol=0, atol=2e-5)


def test_workers_start_from_factors_of_their_own():
    first, same, other = (PowerSGD(SHAPES, 0, worker) for worker in (1, 1, 2))
    assert torch.equal(first.right, same.right) and not torch.equal(first.right, other.right)


# Sign


def test_signs_times_the_mean_magnitude_of_each_tensor():
    codec = Sign([torch.Size((3,)), torch.Size((2, 2))], 0, 1)
    vector = torch.tensor([1.0, -2.0, 0.0, 5.0, -1.0, -1.0, 1.0])
    assert roundtrip(codec, vector).tolist() == [1.0, -1.0, 1.0, 2.0, -2.0, -2.0, 2.0]  # 0 counts as positive
    assert codec.residual.tolist() == [0.0, -1.0, -1.0, 3.0, 1.0, 1.0, -1.0]


def test_what_signs_leave_out_has_the_stated_norm():
    codec, vector = Sign(SHAPES, 0, 1, feedback=False), a_vector() * (a_vector(1) > 0)
    rest = (vector - roundtrip(codec, vector)).split(codec.sizes)
    for piece, lost in zip(vector.double().split(codec.sizes), rest, strict=True):
        assert squared(lost) == pytest.approx(squared(piece) - piece.abs().sum().item() ** 2 / len(piece), rel=1e-5)
