"""The benchmark of batches, small."""

from tests.tools.test_bench_study import report_of


def test_bench_data_measures_both_kinds_of_images():
    report = report_of("data", "--num", "8", "--batch", "4", "--rounds", "2", "--workers", "0")
    assert [row["images"] for row in report["rows"]] == ["JPEG photographs to 224x224", "PNG 32x32, pad, crop"]
    assert all(row["ours, images/s"] > 0 and row["ratio"] > 0 for row in report["rows"])
