"""docker-compose.yml: there is no container engine here, so what can be wrong in the file itself is looked for: names that lead nowhere,
files that are not there, settings that nobody reads, doors that stand open."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from genlock.coordinator.calls import keys_of
from genlock.coordinator.notation import seconds
from genlock.coordinator.settings import TABLE, Settings

from deploy.files import DEPLOY, ROOT

TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
#: Those that are ours, and those of others.
OURS = {"evaluator", "admin", "operator", "trainer", "watch"}
OTHERS = {"redis", "nginx", "prometheus", "grafana"}
#: Variables that are no settings: of gunicorn.conf.py, of the image's health check.
KNOWN = {row.variable for row in TABLE} | {"WEB_CONCURRENCY", "HEALTH_URL"}
#: What deploy/secrets.sh writes.
MADE = {"REDIS_WORKER_PASSWORD", "REDIS_ADMIN_PASSWORD", "REDIS_METRICS_PASSWORD", "SECRETS_GID"}

each_service = pytest.mark.parametrize("name", sorted(SERVICES))


def resolved(value: Any) -> str:
    """A text as compose reads it with nothing set but what secrets.sh makes."""
    text = re.sub(r"\$\{(\w+):\?[^}]*\}", lambda found: f"<{found[1]}>", str(value))
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def mounts(service: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(source, target, mode) of each volume."""
    found = []
    for text in map(resolved, service.get("volumes", [])):
        if ":" not in text:  # a volume without a name
            continue
        source, target, *mode = text.split(":")
        found.append((source, target, "".join(mode)))
    return found


def test_it_has_what_a_fleet_consists_of() -> None:
    assert set(SERVICES) == OURS | OTHERS
    assert {name for name, service in SERVICES.items() if "profiles" in service} == {"trainer", "operator", "watch"}


def test_every_name_leads_somewhere() -> None:
    """A volume, network or secret that is used and not declared, or declared and not used; a service that is waited for."""
    for kind in ("volumes", "networks", "secrets"):
        used = {name for service in SERVICES.values() for name in service.get(kind, []) if kind != "volumes"} | {
            source for service in SERVICES.values() for source, _, _ in mounts(service) if kind == "volumes"
        }
        assert {name for name in used if not name.startswith(".")} == set(COMPOSE[kind])
    for service in SERVICES.values():
        for name, how in service.get("depends_on", {}).items():
            assert how["condition"] == "service_healthy"
            assert "healthcheck" in SERVICES[name] or name in OURS, (
                f"{name} is waited for and says nothing of its health"
            )


@each_service
def test_what_is_mounted_from_the_repository_is_there(name: str) -> None:
    """Docker would make a folder in the place of a file that is missing. What deploy/secrets.sh makes is tested with that."""
    for source, target, mode in mounts(SERVICES[name]):
        assert Path(target).is_absolute()
        if source.startswith("./") and not source.startswith("./deploy/secrets/"):
            assert (ROOT / source).exists(), source
            assert mode == "ro"
    wanted = {secret["file"] for secret in COMPOSE["secrets"].values()}
    assert {path for path in wanted if not path.startswith("./deploy/secrets/")} == set()


def test_every_variable_of_ours_is_a_setting_that_is_read() -> None:
    """A mistyped variable is an option that nobody hears of; values are such that the settings take them."""
    for name in OURS:
        environment = {key: resolved(value) for key, value in SERVICES[name]["environment"].items()}
        assert set(environment) <= KNOWN
        settings = Settings.from_env(environment)
        assert (settings.redis_url or "").startswith("redis://genlock-")
        assert settings.log == "json"


def test_a_variable_that_must_be_set_is_made_by_the_script() -> None:
    assert set(re.findall(r"\$\{(\w+):\?", TEXT)) == MADE
    script = (DEPLOY / "secrets.sh").read_text()
    assert set(re.findall(r"^setting (\w+) ", script, re.M)) == MADE


def test_no_secret_stands_in_it() -> None:
    """Whatever looks like a password has to come from elsewhere."""
    assert re.findall(r"redis://[\w-]+:(?!\$\{)[^@]*@", TEXT) == []
    for service in SERVICES.values():
        for key, value in service.get("environment", {}).items():
            assert not re.search(r"PASSWORD|TOKEN|AUTH", key) or re.match(r"\$\{|/run/secrets/", str(value)), key


def test_each_role_has_its_own_user_of_redis() -> None:
    urls = {name: resolved(SERVICES[name]["environment"]["GENLOCK_REDIS_URL"]) for name in OURS}
    users = {
        name: re.match(r"redis://([\w-]+):<REDIS_(\w+)_PASSWORD>@redis:6379/0$", url) for name, url in urls.items()
    }
    assert {name: (found[1], found[2]) for name, found in users.items() if found} == {
        "evaluator": ("genlock-worker", "WORKER"),
        "admin": ("genlock-admin", "ADMIN"),
        "operator": ("genlock-admin", "ADMIN"),
        "trainer": ("genlock-admin", "ADMIN"),
        "watch": ("genlock-admin", "ADMIN"),
    }


@each_service
def test_images_are_pinned(name: str) -> None:
    """`latest`, or a tag of a major version, is another program next month."""
    image = SERVICES[name]["image"]
    if name in OURS:
        assert image.startswith("genlock:")
        assert (ROOT / SERVICES[name]["build"]["dockerfile"]).exists()
    else:
        assert re.search(r":v?\d+\.\d+\.\d+(-\w+)?$", image), image


@each_service
def test_a_container_may_do_little(name: str) -> None:
    """Not root, nothing of the image can be written, no capability, a bound for what it takes."""
    service = SERVICES[name]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"])
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] in ("unless-stopped", "no")
    assert any(text.startswith("/tmp:") for text in service.get("tmpfs", [])) or name in ("redis", "prometheus")
    limits = service["deploy"]["resources"]["limits"]
    assert float(limits["cpus"]) > 0
    assert re.fullmatch(r"\d+[mg]", resolved(limits["memory"]))
    assert limits["pids"] > 0


def test_redis_is_reached_by_ours_only() -> None:
    """Neither from outside nor by nginx, Prometheus or Grafana; and nobody but nginx and Grafana is reached from elsewhere."""
    assert {name for name, service in SERVICES.items() if "redis" in service["networks"]} == OURS | {"redis"}
    assert SERVICES["redis"]["networks"] == ["redis"]
    assert COMPOSE["networks"]["redis"] == COMPOSE["networks"]["inside"] == {"internal": True}
    assert {name for name, service in SERVICES.items() if "outside" in service["networks"]} == {"nginx", "grafana"}
    assert {name for name, service in SERVICES.items() if "ports" in service} == {"nginx", "grafana"}
    assert resolved(SERVICES["grafana"]["ports"][0]).startswith("127.0.0.1:")


def test_who_speaks_to_whom_shares_a_network() -> None:
    """A name is known only to those in the same network."""
    talk = {"nginx": ["evaluator", "admin"], "prometheus": ["evaluator", "admin"], "grafana": ["prometheus"]}
    talk |= {name: ["redis"] for name in OURS}
    for name, others in talk.items():
        for other in others:
            assert set(SERVICES[name]["networks"]) & set(SERVICES[other]["networks"]), (name, other)


def test_ports_are_those_that_somebody_listens_on() -> None:
    """What nginx, Prometheus and the health checks ask for is what the services say."""
    assert resolved(SERVICES["nginx"]["ports"][0]) == "8080:8080"
    assert "listen 8080;" in (DEPLOY / "nginx/nginx.conf").read_text()
    assert SERVICES["admin"]["command"][-1] == "0.0.0.0:8900"
    assert SERVICES["admin"]["environment"]["HEALTH_URL"] == "http://127.0.0.1:8900/livez"
    upstreams = (DEPLOY / "nginx/upstreams.conf").read_text()
    assert re.findall(r"^\s+server (\S+) ", upstreams, re.M) == ["evaluator:8000", "admin:8900"]
    scraped = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    text = yaml.safe_dump(scraped)
    assert "evaluator" in text and "8000" in text
    assert "admin:8900" in text
    sources = (DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text()
    assert "http://prometheus:9090" in sources


def test_the_dashboards_are_where_grafana_looks() -> None:
    provider = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/genlock.yml").read_text())["providers"][0]
    targets = {target: source for source, target, _ in mounts(SERVICES["grafana"])}
    assert targets[provider["options"]["path"]] == "./deploy/grafana/dashboards"
    assert list((DEPLOY / "grafana/dashboards").glob("*.json"))
    assert targets["/etc/grafana/provisioning"] == "./deploy/grafana/provisioning"


def test_a_stop_waits_longer_than_a_request_may_take() -> None:
    """Else the engine kills an evaluator that ends its requests."""
    config: dict[str, Any] = {}
    exec(compile((DEPLOY / "gunicorn.conf.py").read_text(), "gunicorn.conf.py", "exec"), config)
    assert seconds(SERVICES["evaluator"]["stop_grace_period"]) > config["graceful_timeout"] > Settings().max_wait_s
    assert config["keepalive"] > 60  # keepalive_timeout of upstreams.conf
    read = re.findall(r"proxy_read_timeout (\d+)s", (DEPLOY / "nginx/nginx.conf").read_text())
    assert Settings().max_wait_s < float(read[0]) < config["graceful_timeout"]
    assert SERVICES["nginx"]["stop_signal"] == "SIGQUIT"


def test_the_memory_of_redis_fits_into_its_container() -> None:
    config = (DEPLOY / "redis/redis.conf").read_text()
    (most,) = re.findall(r"^maxmemory (\d+)mb$", config, re.M)
    limit = SERVICES["redis"]["deploy"]["resources"]["limits"]["memory"]
    assert int(most) * 1.5 < int(limit.removesuffix("m"))


def test_the_keys_of_the_acl_are_those_of_a_fleet() -> None:
    """A key that a later genlock adds has to be in the worker's list, too."""
    template = (DEPLOY / "redis/users.acl").read_text()
    worker = template.partition("user genlock-worker")[2].partition("user genlock-admin")[0]
    assert set(re.findall(r"~(genlock:\{@FLEET@\}:\w+)", worker)) == set(keys_of("@FLEET@"))
