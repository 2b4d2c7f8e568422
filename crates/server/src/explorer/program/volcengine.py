import json
import os

from volcengine.ApiInfo import ApiInfo
from volcengine.base.Service import Service
from volcengine.Credentials import Credentials
from volcengine.ServiceInfo import ServiceInfo

keys = Credentials(os.environ["ACCESS_KEY"], os.environ["SECRET_KEY"], "rtc", «region»)
rtc = Service(
    ServiceInfo(«host», {"Accept": "application/json"}, keys, 10, 10, «scheme»),
    {"call": ApiInfo(«method», "/", {"Action": «action», "Version": «version»}, {}, {})},
)
parameters = «parameters»
print(«python-call»)
