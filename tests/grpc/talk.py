"""gRPC between pods, with grpcio as it is on PyPI: `talk.py serve PORT NAME` and `talk.py ask ADDRESS AUTHORITY`.

Messages are JSON, so that nothing is generated. The client prints one object: what came of each call.
"""

import json
import sys
import time
from concurrent import futures

import grpc

SERVICE = "mesh.Test"


def pack(value):
    return json.dumps(value).encode()


def unpack(data):
    return json.loads(data) if data else {}


class Server:
    def __init__(self, name):
        self.name = name
        self.asked = {}

    def answer(self, request, context):
        """Fails as the request says, or tells what it was."""
        call = request.get("id", "")
        self.asked[call] = self.asked.get(call, 0) + 1
        time.sleep(request.get("delay", 0))
        if self.asked[call] <= request.get("fail", 0):
            context.set_trailing_metadata((("x-trailer", self.name),))
            context.abort(grpc.StatusCode[request["code"]], f"{self.name} does not want to")
        metadata = {key: value for key, value in context.invocation_metadata() if isinstance(value, str)}
        return {"name": self.name, "asked": self.asked[call], "metadata": metadata}

    def unary(self, request, context):
        context.set_trailing_metadata((("x-trailer", self.name),))
        return self.answer(request, context)

    def give(self, request, context):
        for number in range(request["count"]):
            yield {"name": self.name, "number": number}

    def take(self, requests, context):
        return {"name": self.name, "sum": sum(request["number"] for request in requests)}

    def both(self, requests, context):
        for request in requests:
            yield {"name": self.name, "number": request["number"] * 2}


def serve(port, name):
    server = Server(name)
    kinds = {
        "Unary": grpc.unary_unary_rpc_method_handler(server.unary, unpack, pack),
        "Give": grpc.unary_stream_rpc_method_handler(server.give, unpack, pack),
        "Take": grpc.stream_unary_rpc_method_handler(server.take, unpack, pack),
        "Both": grpc.stream_stream_rpc_method_handler(server.both, unpack, pack),
    }
    listener = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    listener.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, kinds),))
    listener.add_insecure_port(f"0.0.0.0:{port}")
    listener.start()
    listener.wait_for_termination()


class Client:
    def __init__(self, address, authority):
        options = [
            ("grpc.default_authority", authority),
            ("grpc.enable_retries", 0),
            ("grpc.enable_http_proxy", 0),
        ]
        self.channel = grpc.insecure_channel(address, options)

    def method(self, kind, name):
        return getattr(self.channel, kind)(f"/{SERVICE}/{name}", pack, unpack)

    def unary(self, request, metadata=(), timeout=5):
        start = time.monotonic()
        try:
            answer, call = self.method("unary_unary", "Unary").with_call(request, timeout, metadata)
            outcome = {"code": "OK", "answer": answer}
        except grpc.RpcError as error:
            call = error
            outcome = {"code": error.code().name, "details": error.details()}
        outcome["trailers"] = {key: value for key, value in call.trailing_metadata() or () if isinstance(value, str)}
        outcome["seconds"] = time.monotonic() - start
        return outcome


def ask(address, authority):
    client = Client(address, authority)
    canary = (("x-canary", "true"), ("x-other", "kept"))
    numbers = [{"number": number} for number in range(200)]
    told = {
        "plain": client.unary({}),
        "canary": client.unary({}, canary),
        "retried": client.unary({"id": "retried", "fail": 2, "code": "UNAVAILABLE"}),
        "given_up": client.unary({"id": "given_up", "fail": 9, "code": "UNAVAILABLE"}),
        "refused": client.unary({"id": "refused", "fail": 9, "code": "FAILED_PRECONDITION"}),
        "late": client.unary({"id": "late", "delay": 2}, timeout=0.5),
        "give": list(client.method("unary_stream", "Give")({"count": 200}, timeout=5)),
        "take": client.method("stream_unary", "Take")(iter(numbers), timeout=5),
        "both": list(client.method("stream_stream", "Both")(iter(numbers), timeout=5, metadata=canary)),
    }
    # One waits for the other: a message is passed on before its stream ends.
    turns = []
    answers = None

    def requests():
        for number in range(5):
            while len(turns) < number:
                time.sleep(0.001)
            yield {"number": number}

    answers = client.method("stream_stream", "Both")(requests(), timeout=5)
    for answer in answers:
        turns.append(answer["number"])
    told["turns"] = turns
    print(json.dumps(told))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]), sys.argv[3])
    else:
        ask(sys.argv[2], sys.argv[3])
