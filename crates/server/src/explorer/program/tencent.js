const { trtc } = require("tencentcloud-sdk-nodejs/tencentcloud/services/trtc");

const client = new trtc.v20190722.Client({
    credential: { secretId: process.env.ACCESS_KEY, secretKey: process.env.SECRET_KEY },
    region: «region»,
    profile: { httpProfile: { endpoint: «host», protocol: «scheme://» } },
});
const parameters = «parameters»;

client.request(«action», parameters).then(console.log);
