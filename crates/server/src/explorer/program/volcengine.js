const { Service } = require("@volcengine/openapi");

const { ACCESS_KEY: accessKeyId, SECRET_KEY: secretKey } = process.env;
const rtc = new Service({
    serviceName: "rtc",
    host: «host»,
    protocol: «scheme:»,
    region: «region»,
    accessKeyId,
    secretKey,
});
const call = «node-action»;
const parameters = «parameters»;

call(parameters).then((answer) => console.log(answer.ResponseMetadata.Error ?? answer.Result));
