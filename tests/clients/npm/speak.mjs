// Translate the pieces of text on standard input: node speak.mjs BASE_URL KEY < pieces.json
import { text } from 'node:stream/consumers';
import { OpenAI } from 'openai';
import { OpenAIRealtimeTranslationWS } from 'openai/realtime/translations/ws';

const [baseURL, apiKey] = process.argv.slice(2);
const pieces = JSON.parse(await text(process.stdin));
const client = new OpenAI({ baseURL, apiKey });
const heard = { source: '', target: '', errors: [], turns: 0, models: [] };
for await (const model of client.models.list()) heard.models.push(model.id);

const connection = await OpenAIRealtimeTranslationWS.create(client, { model: 'en-fr' });
connection.on('error', (error) => heard.errors.push(error.error.code));
connection.on('session.input_transcript.delta', (event) => (heard.source += event.delta));
connection.on('session.output_transcript.delta', (event) => (heard.target += event.delta));
connection.on('session.updated', (event) => (heard.policy = event.session.policy));
connection.on('event', (event) => (heard.turns += event.type === 'session.turn.done'));
await new Promise((resolve) =>
  connection.on('session.created', (event) => {
    heard.created = event.session.audio.output.language;
    resolve();
  }),
);
connection.send({ type: 'no.such' });
connection.send({ type: 'session.update', session: { audio: { output: { language: 'fr' } } } });
for (const piece of pieces) {
  connection.send({ type: 'session.input_text_buffer.append', text: piece });
}
await connection.finish({ timeoutMs: 120_000 });
console.log(JSON.stringify(heard));
