import assert from 'node:assert'
import { createOpenAI } from '@ai-sdk/openai'
import { createAnthropic } from '@ai-sdk/anthropic'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { generateText, streamText, tool, stepCountIs, jsonSchema } from 'ai'
import { execSync } from 'node:child_process'
const [url, model] = process.argv.slice(2)
const openai = createOpenAI({ baseURL: `${url}/v1`, apiKey: 'none' })
const providers = {
  'openai chat': openai.chat(model),
  'openai responses': openai.responses(model),
  'openai-compatible': createOpenAICompatible({ name: 'weft', baseURL: `${url}/v1`, apiKey: 'none' })(model),
  anthropic: createAnthropic({ baseURL: `${url}/v1`, apiKey: 'none' })(model),
}
const tools = {
  Bash: tool({
    description: 'Runs a command.',
    inputSchema: jsonSchema({ type: 'object', properties: { command: { type: 'string' }, description: { type: 'string' } }, required: ['command'] }),
    execute: async ({ command }) => execSync(command, { shell: '/bin/bash' }).toString(),
  }),
}
for (const [name, chosen] of Object.entries(providers)) {
  const asked = { model: chosen, tools, stopWhen: stepCountIs(4), prompt: 'Say hi', maxRetries: 0 }
  const whole = await generateText(asked)
  assert.match(whole.text, /weft-42/, name)
  const parts = []
  const stream = streamText({ ...asked, onError: ({ error }) => { throw error } })
  for await (const part of stream.fullStream) parts.push(part)
  const kinds = parts.map((part) => part.type)
  assert.ok(!kinds.includes('error'), JSON.stringify(parts.find((part) => part.type === 'error'), null, 1))
  assert.match(await stream.text, /weft-42/, name)
  assert.ok(kinds.indexOf('tool-call') >= 0 && !kinds.slice(0, kinds.indexOf('tool-call')).includes('text-start'), `${name}: ${kinds}`)
  const plain = await generateText({ model: chosen, prompt: 'Hello', maxRetries: 0, providerOptions: { openai: { store: false, reasoningEffort: 'low', user: 'u' } } })
  assert.ok(plain.text.length > 0, name)
  console.log('works:', name)
}
