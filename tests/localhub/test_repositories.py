"""Repositories as wholes, through the real client."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from cosemzoo.localhub import LocalHub
from cosemzoo.localhub.attributes import DEFAULT_ATTRIBUTES


def test_a_created_repository_exists_and_a_deleted_one_does_not(api: HfApi) -> None:
    url = api.create_repo("cosem/setup04")
    assert url.repo_id == "cosem/setup04"
    assert api.repo_exists("cosem/setup04")
    api.delete_repo("cosem/setup04")
    assert not api.repo_exists("cosem/setup04")
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo("cosem/setup04")


def test_a_repository_without_a_namespace_is_the_callers(api: HfApi) -> None:
    assert api.create_repo("setup04").repo_id == "local/setup04"


def test_creating_a_repository_twice_is_a_conflict_unless_allowed(api: HfApi, repo: str) -> None:
    with pytest.raises(HfHubHTTPError) as refused:
        api.create_repo(repo)
    assert refused.value.response.status_code == 409
    assert api.create_repo(repo, exist_ok=True).repo_id == repo


def test_a_new_repository_holds_the_attributes_of_the_real_hub(api: HfApi, repo: str) -> None:
    (file,) = api.list_repo_tree(repo)
    assert isinstance(file, RepoFile)
    # The blob id of .gitattributes in the model repositories on huggingface.co.
    assert file.blob_id == "a6344aac8c09253b3b630fb776ae94478aa0275b"
    assert file.size == len(DEFAULT_ATTRIBUTES) == 1519


def test_data_sets_and_spaces_are_refused(api: HfApi) -> None:
    with pytest.raises(HfHubHTTPError, match="models only"):
        api.create_repo("cosem/data", repo_type="dataset")
    assert not api.repo_exists("cosem/data", repo_type="dataset")


def test_a_repository_id_that_leads_out_of_the_root_is_refused(raw: Callable[..., Any], root: Path) -> None:
    for namespace, name in (("..", "x"), ("a", ".."), ("a", "b/../../c"), ("/a", "b")):
        body = json.dumps({"organization": namespace, "name": name}).encode()
        assert raw("POST", "/api/repos/create", body).status == 400
    assert list((root / "models").iterdir()) == []


def test_model_info_tells_size_blob_and_sha256_of_every_file(
    api: HfApi, repo: str, commit: Callable[..., str]
) -> None:
    oid = commit({"config.json": b"{}", "model.safetensors": b"weights"})
    info = api.model_info(repo, files_metadata=True)
    assert info.sha == oid
    assert info.siblings is not None
    files = {sibling.rfilename: sibling for sibling in info.siblings}
    assert files["config.json"].size == 2
    assert files["config.json"].blob_id == "9e26dfeeb6e641a33dae4961196235bdb965b21b"
    lfs = files["model.safetensors"].lfs
    assert lfs is not None
    assert lfs.sha256 == hashlib.sha256(b"weights").hexdigest()
    assert lfs.size == 7


def test_models_are_found_by_tag_author_and_name(api: HfApi) -> None:
    cards = {
        "cosem/setup04": "---\nlibrary_name: cosemzoo\ntags: [em, mito]\n---\n",
        "cosem/setup26": "---\nlibrary_name: cosemzoo\ntags: [em]\n---\n",
        "janelia/setup45": "---\ntags: [em, mito]\n---\n",
    }
    for repo_id, text in cards.items():
        api.create_repo(repo_id)
        api.upload_file(path_or_fileobj=text.encode(), path_in_repo="README.md", repo_id=repo_id)

    def found(**query: Any) -> list[str]:
        return [model.id for model in api.list_models(**query)]

    assert found() == ["cosem/setup04", "cosem/setup26", "janelia/setup45"]
    assert found(filter="mito") == ["cosem/setup04", "janelia/setup45"]
    assert found(filter=["cosemzoo", "mito"]) == ["cosem/setup04"]
    assert found(author="janelia") == ["janelia/setup45"]
    assert found(search="SETUP2") == ["cosem/setup26"]
    assert found(filter="cosemzoo", limit=1) == ["cosem/setup04"]
    (model,) = api.list_models(author="janelia", cardData=True)
    assert model.card_data is not None
    assert model.card_data.tags == ["em", "mito"]


def test_a_listing_is_paged_and_every_model_is_on_one_page(api: HfApi, raw: Callable[..., Any]) -> None:
    for number in range(5):
        api.create_repo(f"cosem/setup0{number}")
    seen: list[str] = []
    path = "/api/models?limit=2"
    pages = 0
    while path:
        answer = raw("GET", path)
        seen += [model["id"] for model in json.loads(answer.body)]
        pages += 1
        link = answer.headers.get("Link") or answer.headers.get("link") or ""
        path = link.partition(">")[0].partition("http://")[2].partition("/")[2]
        path = f"/{path}" if path else ""
    assert pages == 3
    assert seen == [f"cosem/setup0{number}" for number in range(5)]


def test_models_are_sorted_by_what_the_client_asks_for(api: HfApi) -> None:
    for name in ("a", "b"):
        api.create_repo(f"cosem/{name}")
    api.upload_file(path_or_fileobj=b"1", path_in_repo="a.txt", repo_id="cosem/a")
    assert [model.id for model in api.list_models(sort="created_at")] == ["cosem/b", "cosem/a"]
    with pytest.raises(HfHubHTTPError, match="sorted by one of lastModified, createdAt"):
        list(api.list_models(sort="likes"))


def test_a_card_with_broken_metadata_is_refused_before_the_commit(api: HfApi, repo: str) -> None:
    card = b"---\ntags: [unclosed\n---\n"
    with pytest.raises(ValueError, match=r"Invalid metadata in README\.md"):
        api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id=repo)


def test_a_card_without_metadata_is_warned_about(api: HfApi, repo: str) -> None:
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        api.upload_file(path_or_fileobj=b"# Hello", path_in_repo="README.md", repo_id=repo)


def test_settings_changed_through_the_client_are_kept(api: HfApi, hub: LocalHub, repo: str) -> None:
    api.update_repo_settings(repo, gated="auto", private=True)
    hub.stop()
    hub.start()
    info = api.model_info(repo)
    assert (info.gated, info.private) == ("auto", True)


def test_whoami_without_tokens_is_local(api: HfApi) -> None:
    assert api.whoami(token="any")["name"] == "local"


def test_what_the_hub_does_not_offer_is_a_404_that_says_so(raw: Callable[..., Any]) -> None:
    answer = raw("GET", "/api/agent-harnesses")
    assert answer.status == 404
    assert "does not offer GET /api/agent-harnesses" in json.loads(answer.body)["error"]
