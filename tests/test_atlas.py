"""The prototype atlas: its parts against slow loops, and the page of a small run from the command line."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import torch.nn.functional as F
from make_folder import TINY, draw_shapes, make_folder, write_index
from rich.console import Console

from protoseg.atlas.collect import Found, Nearest, Sampled, count
from protoseg.atlas.follow import NOBODY, Seen, answers, follow, grid_answers, lattice, see
from protoseg.atlas.gather import gather
from protoseg.atlas.likeness import alike, closest_classes, dead, too_similar
from protoseg.atlas.lists import lists_of, thinned
from protoseg.atlas.maps import disagreement
from protoseg.atlas.page import findings, plane_chart, render
from protoseg.atlas.pictures import box_around, middle, outlined, shades, shown_size
from protoseg.atlas.plane import fit_plane, project
from protoseg.atlas.views import DISAGREEMENT, Atlas
from protoseg.cli import main
from protoseg.data.formats import open_dataset
from protoseg.data.images import read_image
from protoseg.data.masks import read_mask
from protoseg.functional.random import generator
from protoseg.nn.prototype_head import PrototypeHead
from protoseg.trained import by_prototypes, load_model, load_prototypes
from protoseg.types import IGNORE_INDEX
from test_report import Page, links_of_a_page_that_asks_nobody, parse

HOSTILE = '</title><script>alert("1")</script>'
CLASSES = ("ground", HOSTILE, "{{ 7 * 7 }} & 'disc'")


def make_head(classes: int = 4, per_class: int = 3, channels: int = 5) -> PrototypeHead:
    """Of random prototypes; the last class has none yet."""
    head = PrototypeHead(channels, classes, per_class=per_class)
    head.prototype.copy_(torch.randn(head.prototype.shape, generator=generator(0, "test")))
    head.ready[:-1] = True
    return head


class TestFollow:
    def test_equals_a_loop(self) -> None:
        head = make_head()
        features = torch.randn(60, 5, generator=generator(1))
        own = torch.randint(0, 4, (60,), generator=generator(2))
        own[::7] = IGNORE_INDEX
        followed, cosine = follow(head, features, own, head.compare(features).nearest)
        for i in range(60):
            c = int(own[i])
            if c in {3, IGNORE_INDEX}:
                assert followed[i] == NOBODY
                continue
            near = [float(F.cosine_similarity(features[i], head.prototype[c, k], dim=0)) for k in range(3)]
            assert followed[i] == 3 * c + near.index(max(near))
            assert float(cosine[i]) == pytest.approx(max(near), abs=1e-6)

    @pytest.mark.parametrize("align_corners", [False, True])
    @pytest.mark.parametrize("cells", [(6, 8), (1, 8), (6, 1), (48, 64)], ids=str)
    def test_a_grid_is_told_what_its_pixels_are_told(
        self, cells: tuple[int, int], align_corners: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        head = make_head()
        features = torch.randn(1, 5, *cells, generator=generator(1))
        linear = torch.randint(0, 4, (45, 61), generator=generator(2))
        seen = Seen(linear, features, (48, 64), align_corners)
        y, x = torch.arange(0, 45, 4), torch.arange(2, 61)
        points = torch.cartesian_prod(y, x)
        expected = answers(seen, head, points)
        for numbers in (1, 1 << 23):  # a row at a time, and all
            monkeypatch.setattr("protoseg.atlas.follow._NUMBERS", numbers)
            said = grid_answers(seen, head, y, x)
            for name in ("linear", "prototype", "followed"):
                assert (getattr(said, name).flatten() == getattr(expected, name)).all()
            for name in ("cosine", "probability"):
                assert torch.allclose(getattr(said, name).flatten(), getattr(expected, name), atol=2e-6)
        assert len(said.followed.unique()) > 3

    def test_a_grid_where_no_class_has_prototypes(self) -> None:
        head = PrototypeHead(5, 4, per_class=3)
        seen = Seen(torch.zeros(8, 8, dtype=torch.int64), torch.randn(1, 5, 2, 2), (8, 8), False)
        assert (grid_answers(seen, head, torch.arange(8), torch.arange(8)).followed == NOBODY).all()

    def test_a_lattice_of_as_many_cells_is_every_pixel(self) -> None:
        points = lattice(3, 5, 4, 6, rows=4, columns=6)
        assert points.tolist() == [[y, x] for y in range(3, 7) for x in range(5, 11)]

    @pytest.mark.parametrize("rows", [1, 2, 5, 7, 30])
    def test_a_lattice_takes_the_middle_of_each_cell(self, rows: int) -> None:
        y = lattice(0, 0, 7, 1, rows=rows, columns=1)[:, 0].tolist()
        assert y == [int((i + 0.5) * 7 / rows) for i in range(rows)]


class TestNearest:
    def test_equals_a_loop(self) -> None:
        rng = np.random.default_rng(0)
        nearest, seen = Nearest(4, most=3), list[tuple[int, int, int, int, float]]()
        for image in range(6):
            followed = rng.integers(-1, 3, 40)  # no pixel follows the last prototype
            cosine = np.round(rng.random(40), 1)  # many are equally near
            points = rng.integers(0, 99, (40, 2))
            nearest.add(image, *(torch.from_numpy(part) for part in (points, followed, cosine)))
            seen += [(int(p), image, *map(int, points[i]), float(cosine[i])) for i, p in enumerate(followed)]
        for prototype in range(4):
            best: dict[int, Found] = {}
            for p, image, y, x, value in seen:
                if p == prototype and (image not in best or value > best[image].cosine):
                    best[image] = Found(image, y, x, value)
            expected = sorted(best.values(), key=lambda found: (-found.cosine, found.image))[:3]
            assert nearest.found[prototype] == expected
        assert nearest.found[3] == []

    def test_counts(self) -> None:
        assert count(torch.tensor([0, 2, 2, NOBODY, 2]), 4).tolist() == [1, 0, 3, 0]


class TestSampled:
    def test_every_pixel_draws_a_number_and_the_lowest_stay(self) -> None:
        sampled, rows = Sampled(3, most=4, seed=7), list[tuple[float, int, float]]()
        for image in range(5):
            label = torch.randint(0, 3, (20,), generator=generator(image, "label"))
            label[label == 2] = IGNORE_INDEX
            features = torch.arange(20.0)[:, None] + 100 * image
            sampled.add(image, label, features)
            rank = torch.rand(20, dtype=torch.float64, generator=generator(7, "atlas", image))
            rows += [(float(rank[i]), int(label[i]), float(features[i, 0])) for i in range(20)]
        expected = [(c, value) for c in (0, 1) for _, label, value in sorted(rows) if label == c]
        kept = [expected[0:4], [row for row in expected if row[0] == 1][:4]]
        found = list(zip(sampled.label.tolist(), sampled.features[:, 0].tolist(), strict=True))
        assert found == [*kept[0], *kept[1]]

    def test_nothing_to_keep(self) -> None:
        sampled = Sampled(2, most=3)
        assert sampled.features.shape[0] == len(sampled.label) == 0
        sampled.add(0, torch.full((5,), IGNORE_INDEX), torch.ones(5, 3))
        assert sampled.features.shape == (0, 3)


class TestPlane:
    def test_is_that_of_a_singular_value_decomposition(self) -> None:
        points = np.random.default_rng(0).normal(size=(50, 6)) * [5, 3, 1, 1, 0.5, 0.1] + 4
        plane = fit_plane(torch.from_numpy(points))
        centred = points - points.mean(0)
        u, s, _ = np.linalg.svd(centred, full_matrices=False)
        found, expected = project(plane, torch.from_numpy(points)).numpy(), u[:, :2] * s[:2]
        for i in range(2):
            sign = np.sign(found[:, i] @ expected[:, i])
            assert found[:, i] == pytest.approx(sign * expected[:, i])
        assert plane.explained == pytest.approx(s[:2] ** 2 / (s**2).sum())

    def test_the_direction_does_not_depend_on_the_order(self) -> None:
        points = torch.randn(30, 4, generator=generator(0))
        assert torch.allclose(fit_plane(points).axes, fit_plane(points.flip(0)).axes)
        assert (fit_plane(points).axes.abs().max(dim=1).values == fit_plane(points).axes.max(dim=1).values).all()

    @pytest.mark.parametrize("points", [torch.ones(1, 3), torch.ones(4, 3), torch.zeros(3, 1)])
    def test_points_that_do_not_spread(self, points: torch.Tensor) -> None:
        plane = fit_plane(points)
        assert plane.explained == (0, 0)
        assert project(plane, points).abs().max() == 0

    def test_a_line_needs_one_axis(self) -> None:
        plane = fit_plane(torch.arange(5.0)[:, None] * torch.tensor([3.0, 4.0]))
        assert plane.explained == pytest.approx((1, 0))
        assert project(plane, torch.tensor([[9.0, 12.0]])).tolist() == [pytest.approx([5, 0])]


class TestLikeness:
    def test_pairs_equal_a_loop(self) -> None:
        head = make_head(channels=2)
        names = [(c, k) for c in range(3) for k in range(3)]  # not the class that has none

        def cosine(one: tuple[int, int], other: tuple[int, int]) -> float:
            return float(F.cosine_similarity(head.prototype[one], head.prototype[other], dim=0))

        every = [(a, b, cosine(a, b)) for i, a in enumerate(names) for b in names[i + 1 :]]
        expected = sorted((row for row in every if row[2] >= 0.8), key=lambda row: -row[2])
        found = alike(head.prototype, head.ready, at_least=0.8)
        assert len(found) > 2
        assert [pair[:2] for pair in found] == [row[:2] for row in expected]
        assert [pair.cosine for pair in found] == pytest.approx([row[2] for row in expected])
        best = {
            (a, b): max((row for row in every if (row[0][0], row[1][0]) == (a, b)), key=lambda row: row[2])
            for a in range(3)
            for b in range(a + 1, 3)
        }
        between = closest_classes(head.prototype, head.ready, most=9)
        expected = sorted(best.values(), key=lambda row: -row[2])
        assert [pair[:2] for pair in between] == [row[:2] for row in expected]
        assert closest_classes(head.prototype, head.ready, most=1) == between[:1]

    @pytest.mark.parametrize("temperature", [0.05, 0.1, 0.5])
    def test_above_the_bound_no_pixel_tells_two_prototypes_apart(self, temperature: float) -> None:
        bound = too_similar(temperature)
        one, other = torch.tensor([1.0, 0.0]), torch.tensor([bound, (1 - bound**2) ** 0.5])
        angle = torch.linspace(0, 2 * torch.pi, 2000)
        pixel = torch.stack([angle.cos(), angle.sin()], dim=1)
        assert float(((pixel @ one - pixel @ other).abs() / temperature).max()) == pytest.approx(1, abs=1e-3)

    def test_dead_is_who_is_hardly_followed_by_labels_and_by_predictions(self) -> None:
        labeled = torch.tensor([[97, 2, 1], [0, 5, 5], [0, 0, 0], [9, 0, 0]])
        unlabeled = torch.tensor([[98, 1, 1], [50, 5, 5], [0, 0, 0], [0, 0, 0]])
        ready = torch.tensor([True, True, True, False])
        # an even share is a third; a twentieth of it 1.7 of 100 pixels
        assert dead(labeled, unlabeled, ready) == [(0, 2)]
        assert dead(labeled, torch.zeros_like(labeled), torch.ones(4, dtype=torch.bool)) == [(0, 2), (1, 0), (3, 1), (3, 2)]


class TestPictures:
    @pytest.mark.parametrize("size", [(30, 40), (300, 1000), (48, 48), (1, 500)])
    def test_a_box_holds_its_pixel_and_stays_inside(self, size: tuple[int, int]) -> None:
        for y in (0, size[0] // 2, size[0] - 1):
            for x in (0, size[1] // 3, size[1] - 1):
                box = box_around(y, x, size)
                assert 0 <= box.top <= y < box.top + box.height <= size[0]
                assert 0 <= box.left <= x < box.left + box.width <= size[1]
                assert (box.height, box.width) == tuple(min(side, max(48, max(size) // 4)) for side in size)

    def test_the_middle(self) -> None:
        assert middle((10, 30), 16) == (0, 7, 10, 16)
        assert shown_size(100, 50, 640) == (100, 50)
        assert shown_size(100, 50, 200, enlarge=True) == (200, 100)
        assert shown_size(2000, 1, 200) == (200, 1)

    def test_an_outline_runs_on_both_sides_of_the_border(self) -> None:
        region = np.random.default_rng(3).random((9, 12)) < 0.6
        found = outlined(np.full((9, 12, 3), 77, dtype=np.uint8), region)
        for y in range(9):
            for x in range(12):
                around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
                inside = [(a, b) for a, b in around if 0 <= a < 9 and 0 <= b < 12]
                border = any(region[place] != region[y, x] for place in inside)
                inner, outer = (255, 0) if border else (77, 77 // 2 + 48)  # outside a veil
                assert found[y, x].tolist() == [inner if region[y, x] else outer] * 3

    def test_every_prototype_of_a_class_has_a_shade(self) -> None:
        table = shades([(0, 0, 0), (200, 30, 30), (255, 255, 255)], 4)
        for row in table:
            assert len({tuple(color) for color in row.tolist()}) == 4
            assert (np.diff(row.astype(int).sum(1)) > 0).all()
        assert shades([(200, 30, 30)], 1).tolist() == [[[200, 30, 30]]]

    def test_who_is_right(self) -> None:
        words = [name for name, _ in DISAGREEMENT]
        cases = {
            (1, 1, 1): "both say the same",
            (1, 1, 2): "both say the same",
            (1, 1, IGNORE_INDEX): "both say the same",
            (1, 2, 1): "only the linear classifier is right",
            (1, 2, 2): "only the prototypes are right",
            (1, 2, 0): "they differ, and neither is right",
            (1, 2, IGNORE_INDEX): "they differ, and there is no label",
        }
        found = disagreement(*torch.tensor(list(cases)).T)
        assert [words[i] for i in found.tolist()] == list(cases.values())


def test_a_thinned_list_is_evenly_spaced() -> None:
    names = list(range(10))
    assert thinned(names, 3) == [0, 3, 6]  # type: ignore[type-var]
    assert thinned(names, 99) == names  # type: ignore[type-var]
    assert thinned([], 3) == []


@dataclasses.dataclass(frozen=True)
class Run:
    data: Path
    out: Path

    @property
    def html(self) -> str:
        return (self.out / "atlas.html").read_text()


LABELED = 3


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on 3 of 7 masks; the others, which nobody may open, are no masks any more."""
    folder = tmp_path_factory.mktemp("atlas")
    data = make_folder(folder / "data", train=7, labeled=None, test=2, classes=CLASSES, size=(60, 72))
    words = ["--labels", str(LABELED), "--prototypes.per_class", "2", "--out", str(folder / "out")]
    assert main(["train", str(data), *TINY, *words]) == 0
    labeled = json.loads((folder / "out/split.json").read_text())["labeled"]
    hidden = [path for path in (data / "masks").glob("*.png") if path.stem not in labeled]
    assert len(hidden) == 7 - LABELED
    for path in hidden:
        path.write_bytes(b"nobody may look")
    assert main(["atlas", str(folder / "out"), str(data)]) == 0
    return Run(data, folder / "out")


@pytest.fixture(scope="module")
def atlas(run: Run) -> Atlas:
    return gather(run.out, run.data, console=Console(quiet=True), images=100)


class TestAtlas:
    def test_counts_the_pixels_of_the_masks(self, run: Run, atlas: Atlas) -> None:
        labeled = json.loads((run.out / "split.json").read_text())["labeled"]
        masks = [read_mask(run.data / f"masks/{name}.png") for name in labeled]  # every pixel: images are smaller than the grid
        expected = Counter(int(value) for mask in masks for value in mask.flatten())
        for c, view in enumerate(atlas.classes):
            assert sum(prototype.labeled for prototype in view.prototypes) == expected[c]
        assert atlas.pixels == {"labelled": LABELED * 60 * 72, "unlabelled": (7 - LABELED) * 60 * 72}
        assert atlas.images == {"labelled": (LABELED, LABELED), "unlabelled": (7 - LABELED, 7 - LABELED)}
        predicted = sum(prototype.unlabeled for view in atlas.classes for prototype in view.prototypes)
        assert predicted == atlas.pixels["unlabelled"]

    def test_answers_are_those_of_both_predictors(self, run: Run) -> None:
        model = load_model(run.out)
        head = load_prototypes(model, run.out, advice="")
        image = read_image(run.data / "images/img_00.png")
        with torch.no_grad():
            pixels = model.normalization(image, torch.device("cpu"))
            linear = model.network(pixels).logits.argmax(1).flatten()
            prototype = by_prototypes(model, run.out).network(pixels).logits.argmax(1).flatten()
        seen = see(model.network, image, model.normalization, torch.device("cpu"))
        said = answers(seen, head, lattice(0, 0, 60, 72, rows=60, columns=72))
        assert torch.equal(said.linear, linear)
        assert torch.equal(said.prototype, prototype)
        assert torch.equal(said.followed // 2, prototype)

    def test_regions_come_from_different_images(self, run: Run, atlas: Atlas) -> None:
        labeled = set(json.loads((run.out / "split.json").read_text())["labeled"])
        shown = 0
        for view in atlas.classes:
            for prototype in view.prototypes:
                for kind, regions in prototype.regions.items():
                    names = [region.name for region in regions]
                    assert len(set(names)) == len(names) <= 3
                    assert set(names) <= labeled if kind == "labelled" else not set(names) & labeled
                    assert [r.cosine for r in regions] == sorted((r.cosine for r in regions), reverse=True)
                    assert not [name for name in names if name.startswith("test")]
                    assert bool(regions) == bool(prototype.labeled if kind == "labelled" else prototype.unlabeled)
                    shown += len(regions)
        assert shown > 6

    def test_whole_images_are_scored_where_there_is_a_mask(self, atlas: Atlas) -> None:
        assert [view.role for view in atlas.maps] == ["test image"] * 2 + ["unlabelled image"] * 3
        for view in atlas.maps:
            scored = [layer.name for layer in view.layers if layer.score is not None]
            assert scored == (["linear classifier", "nearest prototype"] if view.role == "test image" else [])
            names = [layer.name for layer in view.layers]
            assert ("truth" in names) == (view.role == "test image")
            assert names[-2:] == ["disagreement", "which prototype"]

    def test_fewer_images(self, run: Run) -> None:
        few = gather(run.out, run.data, console=Console(quiet=True), images=2)
        assert few.images == {"labelled": (2, LABELED), "unlabelled": (2, 7 - LABELED)}

    def test_unlabelled_samples_carry_no_mask(self, run: Run) -> None:
        lists = lists_of(run.out, open_dataset(run.data, for_training=False))
        assert len(lists.unlabeled) == 7 - LABELED
        assert all(sample.mask is None and sample.if_listed is None for sample in lists.unlabeled)
        assert all(sample.mask is not None for sample in (*lists.labeled, *lists.evaluation))


class TestPage:
    def test_the_same_run_gives_the_same_page(self, run: Run, tmp_path: Path) -> None:
        assert main(["atlas", str(run.out), str(run.data), "-o", str(tmp_path / "again.html")]) == 0
        assert (tmp_path / "again.html").read_text() == run.html
        assert [path.name for path in tmp_path.iterdir()] == ["again.html"]

    def test_names_never_become_markup(self, run: Run) -> None:
        page = Page(run.html)
        assert run.html.count("<script") == len(page.of("script")) == 1
        assert not [name for _, found in page.elements for name in found if name.startswith("on")]
        assert all(name in page.text for name in CLASSES)

    def test_asks_nobody_for_anything(self, run: Run) -> None:
        assert links_of_a_page_that_asks_nobody(run.html) > 20

    def test_can_be_read_without_eyes_and_without_a_mouse(self, run: Run) -> None:
        page = Page(run.html)
        assert page.of("html")[0]["lang"] == "en"
        assert all(image["alt"] for image in page.of("img"))
        assert all(svg.get("aria-hidden") == "true" or svg["aria-label"] for svg in page.of("svg"))
        ids = [found["id"] for _, found in page.elements if "id" in found]
        assert len(ids) == len(set(ids))
        wanted = [str(link["href"]).removeprefix("#") for link in page.of("a")]
        assert set(wanted) | {str(section["aria-labelledby"]) for section in page.of("section")} <= set(ids)

    def test_what_stands_out_is_said(self, atlas: Atlas) -> None:
        first = atlas.classes[0]
        fine = [dataclasses.replace(view, prototypes=tuple(dataclasses.replace(p, dead=False) for p in view.prototypes))
                for view in atlas.classes]  # fmt: skip
        well = dataclasses.replace(atlas, classes=tuple(fine), alike=(), number_alike=0, notes=())
        assert list(findings(well)) == [
            "No prototype is dead: some pixels of their class follow each of them.",
            "No two prototypes are too similar to be told apart (a cosine of 0.995 or more, where at a temperature of 0.1 "
            "their logits differ by less than 1).",
        ]
        idle = dataclasses.replace(
            first, prototypes=(dataclasses.replace(first.prototypes[0], dead=True), *first.prototypes[1:])
        )
        bare = dataclasses.replace(fine[2], name="bus", prototypes=())
        same = closest_classes(torch.ones(2, 1, 3), torch.ones(2, dtype=torch.bool), most=1)[0]
        ill = dataclasses.replace(
            well,
            classes=(idle, dataclasses.replace(fine[1], name="disc"), bare),
            alike=(same, same._replace(other=(0, 1), cosine=0.9987)),
            number_alike=2,
            notes=("skipped, x.png is no image",),
        )
        text = " ".join(findings(ill))
        assert "1 of 4 prototypes is dead (hardly any pixel of the class follows): ground #1." in text
        assert "2 pairs of prototypes are too similar" in text
        assert "Of one class, so that one of the two is spare: ground #1 and ground #2 (0.999)." in text
        assert "Of different classes, which prototypes alone cannot tell apart there: ground #1 and disc #1 (1.000)." in text
        assert "Without prototypes, because training has met no pixel of them: bus." in text
        assert "Skipped, x.png is no image." in text
        assert "No prototypes: training has met no pixel of this class." in Page(render(ill)).text

    def test_the_plane_is_well_formed_and_holds_everything(self, atlas: Atlas) -> None:
        svg = parse(plane_chart(atlas.cloud, atlas.classes))
        dots = sum(str(path.get("d")).count("M") for path in svg.iter("path"))
        assert dots == sum(len(label) for label in atlas.cloud.label.values())
        assert len(list(svg.iter("circle"))) == 6
        _, _, width, height = (float(word) for word in str(svg.findall("./svg")[0].get("viewBox")).split())
        for path in svg.iter("path"):
            for x, y in re.findall(r"M(-?[\d.]+) (-?[\d.]+)", str(path.get("d"))):
                assert 0 <= float(x) <= width
                assert 0 <= float(y) <= height
        assert 0 < sum(atlas.cloud.explained) <= 1

    def test_many_classes(self, atlas: Atlas) -> None:
        """Each of 150 classes is there, and the page stays below what a mail takes."""
        names = [f"class {i}" for i in range(150)]
        one = {kind: regions[:1] for kind, regions in atlas.classes[0].prototypes[0].regions.items()}
        prototype = dataclasses.replace(atlas.classes[0].prototypes[0], regions=one)
        views = tuple(dataclasses.replace(atlas.classes[0], name=name, prototypes=(prototype,) * 4) for name in names)
        cloud = dataclasses.replace(atlas.cloud, prototype=np.zeros((150, 4, 2)))
        html = render(dataclasses.replace(atlas, classes=views, cloud=cloud))
        assert len(html) < 12_000_000
        text = Page(html).text
        assert all(name in text for name in names)


class TestOtherRuns:
    def test_a_run_without_prototypes(self, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "run"
        few = tmp_path / "few.txt"
        few.write_text("\n".join(json.loads((run.out / "split.json").read_text())["labeled"]))
        words = ["--labels", str(few), "--method", "supervised", "--out", str(out)]
        assert main(["train", str(run.data), *TINY, *words]) == 0
        capsys.readouterr()
        assert main(["atlas", str(out), str(run.data)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "was trained without prototypes; train with --method prototype or METHOD+prototypes" in error
        assert not (out / "atlas.html").exists()

    def test_what_cannot_be_is_said_before_the_work(self, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["atlas", str(tmp_path / "no"), str(run.data)]) == 2
        assert "there is no run folder" in capsys.readouterr().err
        assert main(["atlas", str(run.out), str(run.data), "-o", str(tmp_path / "no/atlas.html")]) == 2
        assert "give a file in a folder that exists with -o" in capsys.readouterr().err
        assert main(["atlas", str(run.out), str(run.data), "-o", str(tmp_path), "--images", "1"]) == 2
        assert main(["atlas", str(run.out), str(run.data), "-o", str(tmp_path / "x.html"), "--images", "0"]) == 2
        assert "--images is 0; give at least 1" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []

    def test_other_data_is_refused(self, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        other = make_folder(tmp_path / "other", train=2, labeled=1, classes=CLASSES)
        assert main(["atlas", str(run.out), str(other)]) == 2
        assert "is not in" in capsys.readouterr().err
        shutil.copytree(run.out, tmp_path / "run")
        (tmp_path / "run/split.json").unlink()
        assert main(["atlas", str(tmp_path / "run"), str(run.data)]) == 2
        assert "split.json is missing" in capsys.readouterr().err
        (tmp_path / "run/split.json").write_text("{}")
        assert main(["atlas", str(tmp_path / "run"), str(run.data)]) == 2
        assert f"{tmp_path / 'run/split.json'} is damaged ('hash' is missing)" in capsys.readouterr().err

    def test_any_bands_and_a_broken_unlabelled_image(self, tmp_path: Path) -> None:
        """Five bands of 16 bits, nothing to score on; an unlabelled image breaks after training."""
        data, rng = tmp_path / "data", np.random.default_rng(0)
        for i in range(5):
            image, mask = draw_shapes(rng)
            bands = np.concatenate([image, image[..., :2]], axis=2).astype(np.uint16) * 200
            path = data / f"images/{i}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, bands, photometric="minisblack", planarconfig="contig")
            if i < 2:
                write_index(data / f"masks/{i}.png", mask)
        assert main(["train", str(data), *TINY, "--out", str(tmp_path / "out")]) == 0
        (data / "images/4.tif").write_bytes(b"II*\0")
        assert main(["atlas", str(tmp_path / "out"), str(data)]) == 0
        page = Page((tmp_path / "out/atlas.html").read_text())
        assert "2 of 3 unlabelled images" in page.text
        assert "Skipped, " in page.text
        assert "labelled image, which it learned from" in page.text
