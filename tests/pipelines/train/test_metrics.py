from pathlib import Path

import pytest

from p2pkit.pipelines.train.logs import figures, metrics_log, read_metrics


def log_steps(run: Path, start: int, stop: int) -> None:
    with metrics_log(run, start) as add:
        for step in range(start, stop):
            add({"step": step, "loss": 10.0 * start + step})


def test_going_on_replaces_the_steps_that_are_done_again(tmp_path: Path) -> None:
    log_steps(tmp_path, 0, 6)
    log_steps(tmp_path, 4, 8)
    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows] == list(range(8))
    assert [row["loss"] for row in rows] == [0, 1, 2, 3, 44, 45, 46, 47]


def test_a_line_cut_by_a_crash_is_left_out(tmp_path: Path) -> None:
    log_steps(tmp_path, 0, 3)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    assert [row["step"] for row in read_metrics(tmp_path)] == [0, 1]
    log_steps(tmp_path, 2, 4)
    assert [row["step"] for row in read_metrics(tmp_path)] == [0, 1, 2, 3]


def test_rows_are_on_disk_while_the_run_goes_on(tmp_path: Path) -> None:
    with metrics_log(tmp_path, 0) as add:
        add({"step": 0, "loss": 1.5})
        assert read_metrics(tmp_path) == [{"step": 0, "loss": 1.5}]


def test_an_exception_closes_the_log(tmp_path: Path) -> None:
    def fail() -> None:
        with metrics_log(tmp_path, 0) as add:
            add({"step": 0, "loss": 1.0})
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fail()
    assert len(read_metrics(tmp_path)) == 1


def test_no_log_gives_no_rows(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []


def test_figures_that_json_has_not_are_null(tmp_path: Path) -> None:
    with metrics_log(tmp_path, 0) as add:
        add({"step": 0, "loss": 1.5, "gradient_norm": float("inf"), "point_rank": float("nan")})
    assert read_metrics(tmp_path) == [
        {"step": 0, "loss": 1.5, "gradient_norm": None, "point_rank": None}
    ]


def test_text_and_gaps_are_no_figures() -> None:
    row = {"step": 3, "loss": 1.5, "pairs": 7, "order": "0a1b2c3d", "gradient_norm": None}
    assert figures(row) == {"loss": 1.5, "pairs": 7}
