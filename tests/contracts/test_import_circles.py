"""No module imports itself by way of others, not even for its types alone."""

import grimp


def circles(graph: grimp.ImportGraph) -> list[list[str]]:
    """Return the groups of modules each of which imports every other one, directly or not."""
    imported = {module: graph.find_upstream_modules(module) for module in graph.modules}
    found = {
        frozenset({module, *(other for other in names if module in imported[other])})
        for module, names in imported.items()
    }
    return sorted(sorted(group) for group in found if len(group) > 1)


def test_flows_and_tasks_have_no_import_circle() -> None:
    assert circles(grimp.build_graph("flows", "tasks", cache_dir=None)) == []


def test_a_circle_is_found_with_all_its_modules() -> None:
    graph = grimp.ImportGraph()
    for importer, imported in ("ab", "bc", "ca", "cd", "ea", "fg", "gf"):
        graph.add_import(importer=importer, imported=imported)
    assert circles(graph) == [["a", "b", "c"], ["f", "g"]]
