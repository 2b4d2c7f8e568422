// Runs the provider, with one person who is always signed in. Prints its issuer, and serves until it is killed.
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const require = createRequire(`${process.env.PACKAGES}/`);
const { Provider } = await import(pathToFileURL(require.resolve("oidc-provider")));

const server = createServer((request, response) => handle(request, response));
server.listen(0, "127.0.0.1", () => {
    const issuer = `http://127.0.0.1:${server.address().port}`;
    const provider = new Provider(issuer, {
        clients: [{
            client_id: "pagecast",
            client_secret: process.env.CLIENT_SECRET,
            redirect_uris: ["http://127.0.0.1/v1/session/oidc/callback"],
        }],
        claims: { openid: ["sub"], email: ["email", "email_verified"], profile: ["name", "groups"] },
        findAccount: (_, id) => ({
            accountId: id,
            claims: () => ({ sub: id, email: "ada@example.com", email_verified: true, groups: JSON.parse(process.env.PERSON_GROUPS) }),
        }),
        pkce: { required: () => true },
        features: { devInteractions: { enabled: false } },
        // The port of the service is not known here.
        interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
    });
    provider.Client.prototype.redirectUriAllowed = (uri) => new URL(uri).pathname === "/v1/session/oidc/callback";
    provider.on("server_error", (_, error) => console.error(error));
    const answer = provider.callback();
    handle = async (request, response) => {
        if (!request.url.startsWith("/interaction/")) return answer(request, response);
        const { prompt, params, session } = await provider.interactionDetails(request, response);
        if (prompt.name === "login") {
            return provider.interactionFinished(request, response, { login: { accountId: "person-1" } });
        }
        const grant = new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
        grant.addOIDCScope(params.scope);
        return provider.interactionFinished(request, response, { consent: { grantId: await grant.save() } });
    };
    console.log(issuer);
});
let handle = (_, response) => response.writeHead(503).end();
