#!/bin/bash
# User data of a launch template for plain EC2 (Amazon Linux 2023): runs a worker from the image, one process per CPU.
# The instance's role needs worker-policy.json, and the rights to read the parameter /mrcelery/broker and to
# pull the image.
set -euo pipefail
IMAGE=ACCOUNT.dkr.ecr.REGION.amazonaws.com/mrcelery:0.1.0
STORAGE=s3://BUCKET/mrcelery

dnf install -y docker
systemctl enable --now docker
aws ecr get-login-password --region REGION | docker login --username AWS --password-stdin "${IMAGE%%/*}"
docker pull "$IMAGE"
# The address contains a password. Keep it in memory, readable by root only, and off command lines.
install -m 600 /dev/null /run/mrcelery.env
{
    printf 'MRCELERY_STORAGE=%s\nAWS_REGION=%s\nMRCELERY_SOFT_SHUTDOWN_TIMEOUT=60\nMRCELERY_BROKER=' "$STORAGE" REGION
    aws ssm get-parameter --region REGION --name /mrcelery/broker --with-decryption --query Parameter.Value --output text
} >>/run/mrcelery.env

cat >/etc/systemd/system/mrcelery.service <<UNIT
[Unit]
Requires=docker.service
After=docker.service network-online.target
[Service]
ExecStartPre=-/usr/bin/docker rm -f mrcelery
ExecStart=/usr/bin/docker run --name mrcelery --read-only --cap-drop ALL --security-opt no-new-privileges \
    --env-file /run/mrcelery.env --volume /scratch worker-image worker --concurrency $(nproc)
# Spot interruptions come with two minutes' notice, and a shrinking group stops the machine. Give tasks time to finish.
ExecStop=/usr/bin/docker stop --time 80 mrcelery
TimeoutStopSec=100
Restart=always
[Install]
WantedBy=multi-user.target
UNIT
docker tag "$IMAGE" worker-image
systemctl daemon-reload
systemctl enable --now mrcelery
