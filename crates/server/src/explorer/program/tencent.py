import json
import os

from tencentcloud.common.common_client import CommonClient
from tencentcloud.common.credential import Credential
from tencentcloud.common.profile.client_profile import ClientProfile
from tencentcloud.common.profile.http_profile import HttpProfile

keys = Credential(os.environ["ACCESS_KEY"], os.environ["SECRET_KEY"])
profile = ClientProfile(httpProfile=HttpProfile(protocol=«scheme», endpoint=«host»))
trtc = CommonClient("trtc", «version», keys, «region», profile)
parameters = «parameters»
print(json.dumps(trtc.call_json(«action», parameters)))
