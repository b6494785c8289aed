"""What the course's service is measured against: the server of transformers' own documentation, with PyTorch.

The page "Web server inference" (https://huggingface.co/docs/transformers/pipeline_webserver) shows one request at a
time, and sketches what it calls dynamic batching. Both are here, working; only the body is the one that `course serve`
takes. benchmarks/serve.py starts this in an environment of its own:

    python plain_server.py FOLDER PORT plain|batched
"""

import asyncio
import contextlib
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from transformers import pipeline

folder, port, mode = sys.argv[1:]


async def predict(request):
    payload = await request.json()
    response_queue = asyncio.Queue()
    await request.app.model_queue.put((payload["text"], response_queue))
    return JSONResponse({"predictions": [await response_queue.get()]})


async def one_at_a_time(queue):
    pipe = pipeline("text-classification", model=folder, device="cpu")
    while True:
        text, response_queue = await queue.get()
        await response_queue.put(pipe(text)[0])


async def in_batches(queue):
    pipe = pipeline("text-classification", model=folder, device="cpu")
    while True:
        text, response_queue = await queue.get()
        texts, queues = [text], [response_queue]
        with contextlib.suppress(TimeoutError):
            while True:
                text, response_queue = await asyncio.wait_for(queue.get(), timeout=0.001)  # 1 ms, as on the page
                texts.append(text)
                queues.append(response_queue)
        for response_queue, answer in zip(queues, pipe(texts, batch_size=len(texts)), strict=True):
            await response_queue.put(answer)


@contextlib.asynccontextmanager
async def lifespan(app):
    app.model_queue = asyncio.Queue()
    loop = {"plain": one_at_a_time, "batched": in_batches}[mode]
    task = asyncio.create_task(loop(app.model_queue))
    yield
    task.cancel()


app = Starlette(routes=[Route("/predict", predict, methods=["POST"])], lifespan=lifespan)
uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")
