"""Starts moto's S3 server on loopback, or with `all` on all interfaces, prints its address and its users as JSON, and ends when standard input does."""

import json
import os
import sys

POLICIES = {"writer": ["s3:*"], "reader": ["s3:GetObject", "s3:ListBucket"], "stranger": ["ec2:*"]}
USERS = sys.argv[1] == "users"
BUCKETS = sys.argv[2:]
if USERS:
    # Actions before the server checks credentials: three for each user, and one for each bucket.
    os.environ["INITIAL_NO_AUTH_ACTION_COUNT"] = str(3 * len(POLICIES) + len(BUCKETS))

import boto3
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="0.0.0.0" if sys.argv[1] == "all" else "127.0.0.1", port=0, verbose=False)
server.start()
endpoint = "http://127.0.0.1:%s" % server.get_host_and_port()[1]
client = {"endpoint_url": endpoint, "region_name": "us-east-1", "aws_access_key_id": "a", "aws_secret_access_key": "b"}
users = {}
if USERS:
    iam = boto3.client("iam", **client)
    for name, actions in POLICIES.items():
        iam.create_user(UserName=name)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        statement = {"Effect": "Allow", "Action": actions, "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        iam.put_user_policy(UserName=name, PolicyName="policy", PolicyDocument=policy)
        users[name] = [key["AccessKeyId"], key["SecretAccessKey"]]
s3 = boto3.client("s3", **client)
for bucket in BUCKETS:
    s3.create_bucket(Bucket=bucket)
    if bucket == "thesis":
        s3.put_object(Bucket=bucket, Key="vadpipe/thesis.tex", Body=b"")
print(json.dumps({"endpoint": endpoint, "users": users}), flush=True)
sys.stdin.read()
