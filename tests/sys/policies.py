"""aditctl policy, for scenarios."""
import json
import os
import subprocess

import yaml

import lib

ANYBODY = {"listener": "*"}
CLIENT = "cluster.local/ns/test/sa/client"


def policy(name, action, *rules, **more):
    return {"name": name, "action": action, "rules": list(rules), **more}


def allow(name, *rules, **more):
    return policy(name, "allow", *rules, **more)


def deny(name, *rules, **more):
    return policy(name, "deny", *rules, **more)


def ctl(agent, *argv, text=None, status=0, user=None):
    """aditctl with standard input; Return: its JSON, or standard error when it should fail"""
    argv = [os.path.join(lib.BUILD, "aditctl"), "-s", agent.socket, *map(str, argv), "-o", "json"]
    if user:
        argv = ["setpriv", "--reuid", str(user), "--regid", str(user), "--clear-groups", *argv]
    r = subprocess.run(argv, input=text or "", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=30 * lib.SLOW, check=False)
    assert r.returncode == status, f"{argv}: status {r.returncode}\n{r.stdout[-1000:]}{r.stderr}\n{agent.log()[-2000:]}"
    return json.loads(r.stdout) if status == 0 else r.stderr


def apply(agent, *policies, argv=(), **kw):
    """add or change these"""
    return ctl(agent, "policy", "apply", "-f", "-", *argv, text=yaml.safe_dump({"policies": list(policies)}, sort_keys=False), **kw)


def delete(agent, name, *argv, **kw):
    return ctl(agent, "policy", "delete", name, *argv, **kw)


def names(agent, origin=None):
    return [p["name"] for p in ctl(agent, "policy", "list")["policies"] if origin in (None, p["origin"])]


def audit(agent, n=0):
    return ctl(agent, "audit", "-n", n)["audit"]
