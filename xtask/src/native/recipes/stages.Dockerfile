# What the recipes stand for: a stage with a recipe is built natively only where its text means what stands here under the recipe's name.
# `recipes/reference.rs` compares them; defaults of arguments are free. Paths of the policy: @installer@, @lock@ and their last parts, and
# @scripts@, the folder of the Dockerfile. A change here is a change of the recipe's code too, and the other way round.
FROM scratch AS python-packages
ARG BUILD_PACKAGES
ARG MANYLINUX=2_36
WORKDIR /build
COPY @installer@ ./
RUN --mount=type=cache,target=/root/.cache,sharing=locked \
    --mount=type=secret,id=ca --mount=type=secret,id=index-url --mount=type=secret,id=extra-index-url \
    --mount=type=secret,id=netrc,target=/root/.netrc \
    if [ -f /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi && \
    if [ -f /run/secrets/index-url ]; then export PIP_INDEX_URL="$(cat /run/secrets/index-url)"; fi && \
    if [ -f /run/secrets/extra-index-url ]; then export PIP_EXTRA_INDEX_URL="$(cat /run/secrets/extra-index-url)"; fi && \
    python3 -m venv /opt/installer && \
    /opt/installer/bin/pip install --disable-pip-version-check --require-hashes -r @installer-name@
COPY @scripts@install.py ./
COPY @lock@ ./
RUN --mount=type=cache,target=/root/.cache,sharing=locked \
    --mount=type=secret,id=ca --mount=type=secret,id=index-url --mount=type=secret,id=extra-index-url \
    --mount=type=secret,id=find-links --mount=type=secret,id=index-strategy \
    --mount=type=secret,id=netrc,target=/root/.netrc \
    if [ -f /run/secrets/ca ]; then export SSL_CERT_FILE=/run/secrets/ca; fi && \
    if [ -f /run/secrets/index-url ]; then export UV_DEFAULT_INDEX="$(cat /run/secrets/index-url)"; fi && \
    if [ -f /run/secrets/extra-index-url ]; then export UV_INDEX="$(cat /run/secrets/extra-index-url)"; fi && \
    if [ -f /run/secrets/find-links ]; then export UV_FIND_LINKS="$(cat /run/secrets/find-links)"; fi && \
    if [ -f /run/secrets/index-strategy ]; then export UV_INDEX_STRATEGY="$(cat /run/secrets/index-strategy)"; fi && \
    if [ -z "${BUILD_PACKAGES}" ]; then wheels_only="--no-build --python-platform $(uname -m)-manylinux_${MANYLINUX}"; fi && \
    python="$(command -v python3)" && \
    version="$(python3 -c 'import sys; print("python%d.%d" % sys.version_info[:2])')" && \
    mkdir -p /opt/venv/bin "/opt/venv/lib/${version}/site-packages" && \
    printf 'home = %s\ninclude-system-site-packages = false\n' "${python%/*}" > /opt/venv/pyvenv.cfg && \
    ln -s "${python}" /opt/venv/bin/python3 && \
    ln -s python3 /opt/venv/bin/python && ln -s python3 "/opt/venv/bin/${version}" && \
    python3 -I -S install.py "/opt/venv/lib/${version}/site-packages" \
        /opt/installer/bin/uv pip install --no-config --python /opt/venv/bin/python3 --python-preference only-system \
        --link-mode copy --require-hashes ${wheels_only:-} -r @lock-name@ && \
    rm -f /opt/venv/.lock
COPY @scripts@compile.py @scripts@check-imports.py ./
RUN python3 -I -S compile.py /opt/venv/lib/python3.*/site-packages && \
    PYTHONDONTWRITEBYTECODE=1 /opt/venv/bin/python3 check-imports.py

FROM scratch AS user
ARG USER_NAME
ARG USER_ID
ARG GROUP_ID
ARG USER_HOME
RUN echo "${USER_NAME}:x:${GROUP_ID}:" >> /etc/group && \
    echo "${USER_NAME}:x:${USER_ID}:${GROUP_ID}:${USER_NAME}:${USER_HOME}:/usr/sbin/nologin" >> /etc/passwd && \
    mkdir -p "${USER_HOME}" /app
