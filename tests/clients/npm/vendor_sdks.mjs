import assert from 'node:assert'
import { execSync } from 'node:child_process'
import OpenAI from 'openai'
import Anthropic from '@anthropic-ai/sdk'
import { betaTool } from '@anthropic-ai/sdk/helpers/beta/json-schema'
const [url, model] = process.argv.slice(2)
const parameters = { type: 'object', properties: { command: { type: 'string' } }, required: ['command'] }
const run = ({ command }) => execSync(command, { shell: '/bin/bash' }).toString()
const messages = [{ role: 'user', content: 'Say hi' }]

const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 0 })
for (const stream of [false, true]) {
  const tools = [{ type: 'function', function: { name: 'Bash', parameters, parse: JSON.parse, function: run } }]
  const runner = openai.chat.completions.runTools({ model, messages, tools, stream })
  assert.match(await runner.finalContent(), /weft-42/)
}
const stored = await openai.responses.create({ model, input: 'Say hi', truncation: 'auto', text: { verbosity: 'low' }, reasoning: { effort: 'low', summary: 'auto' }, include: ['web_search_call.action.sources'], tools: [{ type: 'web_search' }] })
assert.ok(stored.output_text.length > 0)

const anthropic = new Anthropic({ baseURL: url, apiKey: 'none', maxRetries: 0 })
for (const stream of [false, true]) {
  const tools = [betaTool({ name: 'Bash', description: 'Runs a command.', inputSchema: parameters, run })]
  const runner = anthropic.beta.messages.toolRunner({ model, max_tokens: 500, messages, tools, stream })
  const last = await runner
  assert.match(last.content.map((block) => block.text ?? '').join(''), /weft-42/)
}
const listed = await anthropic.models.list()
assert.equal(listed.data[0].type, 'model')
console.log('works')
