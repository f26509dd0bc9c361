// A Workload API server on grpc-js, told what to say by lines of JSON on
// stdin: {"push": BASE64}, {"refuse": [CODE, TEXT]}, {"silence": true},
// {"end": true} closes the streams, {"drain": true} announces the end.
// It tells what it sees by lines of JSON on stdout.
'use strict';

const fs = require('fs');
const path = require('path');
const readline = require('readline');

const [socket, modules] = process.argv.slice(2);
const grpc = require(path.join(modules, '@grpc/grpc-js'));

let last = null;
let refusal = null;
const streams = new Set();
const bytes = (b) => b;

function tell(what) {
	process.stdout.write(JSON.stringify(what) + '\n');
}

function fail(call, [code, details]) {
	streams.delete(call);
	call.emit('error', { code, details });
}

function fetch(call) {
	tell({
		request: call.request.toString('hex'),
		metadata: Object.keys(call.metadata.getMap()).map(
			(k) => [k, call.metadata.get(k).map(String)]),
		authority: call.getHost(),
	});
	if (refusal) {
		fail(call, refusal);
		return;
	}
	streams.add(call);
	call.on('cancelled', () => streams.delete(call));
	if (last)
		call.write(last);
}

const server = new grpc.Server({ 'grpc.max_send_message_length': -1 });
server.addService({
	FetchX509SVID: {
		path: '/SpiffeWorkloadAPI/FetchX509SVID',
		requestStream: false,
		responseStream: true,
		requestSerialize: bytes,
		requestDeserialize: bytes,
		responseSerialize: bytes,
		responseDeserialize: bytes,
	},
}, { FetchX509SVID: fetch });

function obey(order) {
	if (order.push) {
		last = Buffer.from(order.push, 'base64');
		refusal = null;
		streams.forEach((call) => call.write(last));
	} else if (order.refuse) {
		last = null;
		refusal = order.refuse;
		streams.forEach((call) => fail(call, refusal));
	} else if (order.silence) {
		last = refusal = null;
	} else if (order.end) {
		streams.forEach((call) => call.end());
		streams.clear();
	} else if (order.drain) {
		server.tryShutdown(() => tell({ drained: true }));
	}
	tell({ done: true });
}

if (fs.existsSync(socket))
	fs.unlinkSync(socket);
server.bindAsync('unix:' + socket, grpc.ServerCredentials.createInsecure(),
	(error) => {
		if (error)
			throw error;
		fs.chmodSync(socket, 0o777);
		readline.createInterface({ input: process.stdin })
			.on('line', (line) => obey(JSON.parse(line)))
			.on('close', () => process.exit(0));
		tell({ ready: true });
	});
