# One image for operator and proxies: docker build -t outrider:0.1.0 .   (or: make image)
# The base needs Node.js >= 24, in /nodejs/bin (distroless) or in /usr/local/bin (BASE=node:24-bookworm-slim), and glibc.
# Pin it to a digest for reproducible builds: BASE=gcr.io/distroless/nodejs24-debian12@sha256:…
# BUILD is the image of the first stage: Node.js >= 24 and npm. REGISTRY is the npm registry (default: that of npm).
# The secrets `npmrc` (an .npmrc with credentials) and `ca` (certificates that npm trusts as well) are no part of any layer.
ARG BUILD=node:24-bookworm-slim
ARG BASE=gcr.io/distroless/nodejs24-debian12:nonroot

# The bundle is the same for all processors. The second stage runs nothing, so other architectures need no emulation.
FROM --platform=$BUILDPLATFORM ${BUILD} AS build
WORKDIR /src
COPY package.json package-lock.json .npmrc LICENSE ./
ARG REGISTRY=
# Install scripts are not needed: the base image has Node.js 24. The mounts need BuildKit or buildah.
RUN --mount=type=secret,id=npmrc --mount=type=secret,id=ca \
    if [ -f /run/secrets/npmrc ]; then export npm_config_userconfig=/run/secrets/npmrc; fi; \
    if [ -f /run/secrets/ca ]; then export NODE_EXTRA_CA_CERTS=/run/secrets/ca; fi; \
    npm ci --ignore-scripts ${REGISTRY:+--registry="$REGISTRY"}
COPY bin bin
COPY proxy proxy
COPY operator operator
RUN node bin/image/bundle.ts

# buildah would use the platform of the first stage otherwise: https://github.com/containers/buildah/issues/4721
FROM --platform=$TARGETPLATFORM ${BASE}
ARG BASE
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="outrider" \
      org.opencontainers.image.description="Static egress IPs that are proven, and SSRF-safe forward proxying, for webhook senders" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.base.name="${BASE}"
ENV PATH=/nodejs/bin:/usr/local/bin:/usr/bin:/bin
WORKDIR /app
COPY --from=build /src/package.json /src/LICENSE ./
COPY --from=build /src/dist dist
USER 65532:65532
EXPOSE 4750 9750
# Docker runs it in the container, with OUTRIDER_ADMIN of the proxy. Kubernetes ignores it.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["node", "/app/dist/outrider.js", "health"]
# No shell: node is the entry point. These flags of V8 are for the proxy; the chart starts the operator with its own flags.
ENTRYPOINT ["node", "--disable-warning=ExperimentalWarning", "--max-semi-space-size=8", "/app/dist/outrider.js"]
CMD ["proxy"]
