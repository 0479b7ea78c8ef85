"""Reads a V1 registry with the docker-registry-client package: every image, its tags, and what they point to."""
import sys

from docker_registry_client import DockerRegistryClient

url, password = sys.argv[1:]
client = DockerRegistryClient(url, username="admin", password=password, api_version=1)
for name in sorted(client.repositories()):
    repository = client.repository(name)
    for tag in sorted(repository.tags()):
        print(name, tag, repository.image(tag).image_id)
