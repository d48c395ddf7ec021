"""A program that uses the generated client: `mypy --strict` checks it, then it runs.

use.py URL TOKEN
"""

import sys

from keepgate_center_client import AuthenticatedClient
from keepgate_center_client.api.default import check, create_token, list_services, list_tokens, status
from keepgate_center_client.models import (
    Answer,
    MadeToken,
    NewToken,
    Question,
    ServiceList,
    Status,
    TokenRole,
    TokenList,
)

client = AuthenticatedClient(base_url=sys.argv[1], token=sys.argv[2])

services = list_services.sync(client=client)
assert isinstance(services, ServiceList)
names: list[str] = [service.name for service in services.services]
policies: int = sum(service.policies for service in services.services)
assert names == ["orders"] and policies == 1, services

made = create_token.sync(client=client, body=NewToken(role=TokenRole.PEP, note="a test"))
assert isinstance(made, MadeToken)
secret: str = made.token
tokens = list_tokens.sync(client=client)
assert isinstance(tokens, TokenList)
assert any(token.id == made.id and token.note == "a test" for token in tokens.tokens)

pep = AuthenticatedClient(base_url=sys.argv[1], token=secret)
question = Question(principal='user::"alice"', action="GET", resource='route::"/"', service="orders")
answer = check.sync(client=pep, body=question)
assert isinstance(answer, Answer)
decision: bool = answer.decision
assert decision and answer.determining[0].id == "all", answer

said = status.sync(client=client)
assert isinstance(said, Status)
revision: int = said.centers[0].revision
assert revision == services.revision + 1 and said.wrong == [], said
print("ok")
