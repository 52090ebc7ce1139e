# The image of Vintner; docs/image.md says how to build and run it, and what of that was proven.
#   docker build --tag vintner .
# The final stage copies two trees that the first stages made: what Vintner needs, which changes with constraints.txt,
# and Vintner itself, which is small. So a new version of Vintner on the same constraints is a few megabytes to pull.

# A digest may be given here, such as python@sha256:...; it needs glibc 2.35 or newer (OpenVINO's wheels for ARM64).
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS dependencies
# 1: with what language models and embeddings need (the extra `genai`), 0: without.
ARG GENAI=1
# Extras of pyproject.toml beside that, with spaces between.
ARG EXTRAS=""
WORKDIR /build
COPY pyproject.toml constraints.txt ./
# pip stays out of the environment: it installs into it from here. Bytecode is written once the files are there, by
# what they say and not by their times, which builders may change: nothing can write it anew in a read-only container.
# hadolint ignore=SC2086
RUN set -eu; \
    case "$GENAI" in 0) extras="$EXTRAS" ;; 1) extras="genai $EXTRAS" ;; \
      *) echo "GENAI: expected 0 or 1, got '$GENAI'" >&2; exit 1 ;; esac; \
    python -c 'import sys, tomllib; \
      project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
      wanted = [project["dependencies"], *(project["optional-dependencies"][name] for name in sys.argv[1:])]; \
      print(*sum(wanted, []), sep="\n")' $extras > requirements.txt; \
    python -m venv --without-pip /opt/vintner; \
    python -m pip --python /opt/vintner/bin/python install --no-cache-dir --no-compile --only-binary=:all: \
      --constraint constraints.txt --requirement requirements.txt; \
    python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/vintner/lib

FROM dependencies AS vintner
COPY README.md LICENSE ./
COPY server server
COPY backends backends
RUN set -eu; \
    python -m pip wheel --no-cache-dir --no-deps --wheel-dir wheels .; \
    python -m pip --python /opt/vintner/bin/python install --no-cache-dir --no-compile --no-deps --no-index \
      --prefix /own wheels/*.whl; \
    python -m compileall -q -j 0 --invalidation-mode unchecked-hash -s /own -p /opt/vintner /own/lib
COPY model_repository models
# What shows language models could not be loaded without their runtimes.
RUN if [ "$GENAI" = 0 ]; then \
      rm -r models/tiny_embeddings models/tiny_llm models/tiny_llm_onnx models/tiny_reranker; fi

FROM ${BASE}
ARG BASE
ARG VERSION=0.1.0
ARG REVISION=""
# Address of the source, for the label.
ARG SOURCE=""
LABEL org.opencontainers.image.title="vintner" \
      org.opencontainers.image.description="A KServe v2 model server for OpenVINO and ONNX" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.base.name="${BASE}"
# The base brings pip, which nobody needs here, and its library without bytecode, which every start would pay for.
RUN set -eu; \
    python -m pip uninstall --yes --quiet --root-user-action ignore pip setuptools wheel; \
    library="$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"; \
    rm -r "$library/ensurepip"; \
    python -m compileall -q -j 0 --invalidation-mode unchecked-hash \
      -x '/(idlelib|lib2to3|pydoc_data|test|tkinter|turtledemo)/' "$library"; \
    install --directory --owner=1010 --group=0 --mode=0775 /cache
COPY --from=dependencies /opt/vintner /opt/vintner
COPY --from=vintner /own /opt/vintner
COPY --from=vintner /build/models /opt/vintner/model_repository
ENV PATH=/opt/vintner/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1
# Any other user will do, too, and needs no group but this.
USER 1010:0
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=6 CMD ["vintner", "health"]
ENTRYPOINT ["vintner"]
CMD ["serve", "--model-repository", "/opt/vintner/model_repository"]
